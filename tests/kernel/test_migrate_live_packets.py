"""Packet by packet through a move: of numbered datagrams at the highest rate that a sender reaches, each one that is to
pass arrives, and none that is to be dropped does, whichever rules are in force."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from mover import MIGRATE

from nfkeep import Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

ACCEPTED, MARKED = 7001, 7002
DROPPED, DROPPED_BY_MARK, BY_POLICY, UNTRACKED = 7101, 7102, 7103, 7104
PASSING, STOPPED = (ACCEPTED, MARKED), (DROPPED, DROPPED_BY_MARK, BY_POLICY, UNTRACKED)
RULES = f"""*raw
-A OUTPUT -p udp -m udp --dport {UNTRACKED} -j CT --notrack
COMMIT
*mangle
-A PREROUTING -p udp -m udp --dport {MARKED} -j MARK --set-xmark 0x5/0xffffffff
-A PREROUTING -p udp -m udp --dport {DROPPED_BY_MARK} -j MARK --set-xmark 0x6/0xffffffff
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -p udp -m udp --dport {DROPPED} -j DROP
-A INPUT -m mark --mark 0x6 -j DROP
-A INPUT -m conntrack --ctstate UNTRACKED -j DROP
-A INPUT -p udp -m udp --dport {BY_POLICY} -j RETURN
-A INPUT -m mark --mark 0x5 -j ACCEPT
-A INPUT -p udp -m multiport --dports {ACCEPTED},{DROPPED},{DROPPED_BY_MARK},{UNTRACKED} -j ACCEPT
COMMIT
"""
_BATCH = 20
_BUFFER_BYTES = 1 << 26
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


@attrs.frozen
class Arrived:
    """Of datagrams to one port: how many arrived, and the first numbers that came instead of the next one."""

    number: int
    out_of_turn: tuple[int, ...]


class Probe:
    """A process that sends over lo, to all ports in turn, and one that receives."""

    def __init__(self, namespace: Namespace, family: Family) -> None:
        context = multiprocessing.get_context("fork")
        self._stop, self._last = context.Event(), context.Event()
        with namespace:
            receivers = [socket.socket(family.value, socket.SOCK_DGRAM) for _ in (*PASSING, *STOPPED)]
        for port, receiver in zip((*PASSING, *STOPPED), receivers, strict=True):
            receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            receiver.bind((_LOOPBACK[family], port))
        self._sent, sent = context.Pipe(duplex=False)
        self._arrived, arrived = context.Pipe(duplex=False)
        self._processes = [
            context.Process(target=_receive, args=(receivers, self._last, arrived)),
            context.Process(target=_send, args=(namespace, family, self._stop, sent)),
        ]
        for process in self._processes:
            process.start()
        for each in (*receivers, sent, arrived):
            each.close()  # only the processes have it now: one that dies is the end of the pipe, not a wait without end
        self._sent.recv()
        self._began = time.monotonic()

    def stop(self) -> tuple[int, int, dict[int, Arrived]]:
        """How many were sent to each port, how many in all a second, and what arrived."""
        self._stop.set()
        each = self._sent.recv()
        rate = each * len(PASSING + STOPPED) / (time.monotonic() - self._began)
        self._last.set()
        return each, int(rate), self._arrived.recv()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._sent.close()
        self._arrived.close()


def _send(namespace: Namespace, family: Family, stop: Event, results: Connection) -> None:
    number = 0
    with namespace, contextlib.ExitStack() as stack:
        senders = []
        for port in (*PASSING, *STOPPED):
            senders.append(stack.enter_context(socket.socket(family.value, socket.SOCK_DGRAM)))
            senders[-1].connect((_LOOPBACK[family], port))
        while not stop.is_set():
            for _ in range(_BATCH):
                datagram = struct.pack("!Q", number)
                for sender in senders:
                    sender.send(datagram)
                number += 1
            if number == _BATCH:
                results.send("it runs")
    results.send(number)


def _receive(receivers: list[socket.socket], last: Event, results: Connection) -> None:
    """Until no more can come: what was sent over lo has arrived when `send` returns, or soon after."""
    expected = [0] * len(receivers)
    wrong: list[list[int]] = [[] for _ in receivers]
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for receiver in receivers:
            stack.enter_context(receiver)
            poll.register(receiver, select.POLLIN)
        by_number = {receiver.fileno(): at for at, receiver in enumerate(receivers)}
        counts = [0] * len(receivers)
        while (ready := poll.poll(100)) or not last.is_set():
            for number, _ in ready:
                at = by_number[number]
                receiver = receivers[at]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        (got,) = struct.unpack("!Q", receiver.recv(8, socket.MSG_DONTWAIT))
                        counts[at] += 1
                        if got != expected[at] and len(wrong[at]) < 10:
                            wrong[at].append(got)
                        expected[at] = got + 1
    ports = (*PASSING, *STOPPED)
    results.send({port: Arrived(counts[at], tuple(wrong[at])) for at, port in enumerate(ports)})


@pytest.fixture(params=Family, ids=str)
def probed(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Probe]:
    """Rules are in force, and datagrams under way."""
    name = "iptables" if request.param is Family.IPV4 else "ip6tables"
    namespace.run(f"{name}-legacy-restore", input=RULES)
    probe = Probe(namespace, request.param)
    yield probe
    probe.close()


def lost_by_the_device(namespace: Namespace) -> int:
    """Packets that lo has dropped because a processor's backlog was full, which no rule is to blame for."""
    listing = namespace.run("ip -s -s -j link show lo").stdout
    return int(json.loads(listing)[0]["stats64"]["rx"]["dropped"])


def test_each_packet_meets_one_verdict(namespace: Namespace, probed: Probe) -> None:
    """Through a move and the way back, and a move that is confirmed."""
    for command in ("apply", "rollback", "apply", "confirm"):
        namespace.run([*MIGRATE, command], env=dict(os.environ))
    sent, rate, arrived = probed.stop()
    assert lost_by_the_device(namespace) == 0
    for port in PASSING:
        assert arrived[port] == Arrived(sent, ()), f"port {port}, at {rate} datagrams a second"
    assert {port: arrived[port].number for port in STOPPED} == dict.fromkeys(STOPPED, 0), f"at {rate} a second"
