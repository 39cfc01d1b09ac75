"""Traffic at full rate whose every packet is known: datagrams over lo that rules can count, to compare with what was
sent."""

from __future__ import annotations

import multiprocessing
import socket
from typing import TYPE_CHECKING

from nfkeep import Counters, Family

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from nfkeep.namespaces import Namespace

PAYLOADS = {7001: 10, 7002: 500, 7003: 1000}
"""Bytes in each datagram to a port."""
SENDERS, ROUND = 2, 50

_HEADERS = {Family.IPV4: 20 + 8, Family.IPV6: 40 + 8}
_LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


class Flood:
    """Processes that send datagrams over lo as fast as they can, to sockets that nobody reads."""

    def __init__(self, namespace: Namespace, family: Family = Family.IPV4) -> None:
        context = multiprocessing.get_context("fork")
        self._stop = context.Event()
        self._family = family
        with namespace:
            self._receivers = [socket.socket(family.value, socket.SOCK_DGRAM) for _ in PAYLOADS]
        for port, receiver in zip(PAYLOADS, self._receivers, strict=True):
            receiver.bind((_LOOPBACK[family], port))
        self._results: list[Connection] = []
        self._processes = []
        for _ in range(SENDERS):
            result, results = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(namespace, family, self._stop, results))
            process.start()
            results.close()  # only the sender has it now: one that dies is the end of the pipe, not a wait without end
            self._results.append(result)
            self._processes.append(process)
        for result in self._results:
            result.recv()

    def stop(self) -> dict[int, Counters]:
        """What was sent to each port."""
        self._stop.set()
        sent = [result.recv() for result in self._results]
        for process in self._processes:
            process.join()
        size = {port: payload + _HEADERS[self._family] for port, payload in PAYLOADS.items()}
        packets = {port: sum(each[port] for each in sent) for port in PAYLOADS}
        return {port: Counters(packets[port], packets[port] * size[port]) for port in PAYLOADS}

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for open_one in (*self._results, *self._receivers):
            open_one.close()


def _send(namespace: Namespace, family: Family, stop: Event, results: Connection) -> None:
    sent = dict.fromkeys(PAYLOADS, 0)
    with namespace, socket.socket(family.value, socket.SOCK_DGRAM) as sender:
        while not stop.is_set():
            for port, size in PAYLOADS.items():
                for _ in range(ROUND):
                    sender.sendto(bytes(size), (_LOOPBACK[family], port))
                sent[port] += ROUND
            if sent[port] == ROUND:
                results.send("it runs")
    results.send(sent)


def total(*parts: Counters) -> Counters:
    """Their sum."""
    return Counters(sum(part.packets for part in parts), sum(part.bytes for part in parts))
