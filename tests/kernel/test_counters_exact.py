"""Counters under traffic at full rate: a thousand changes of the table lose no packet and count none twice."""

from __future__ import annotations

import multiprocessing
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rounds import rounds

import nfkeep
from nfkeep import CommitError, Counters, Family
from nfkeep.keep.transaction import transactions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

    from nfkeep.keep.editing import TableEdits
    from nfkeep.model import Chain
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

PAYLOADS = {7001: 10, 7002: 500, 7003: 1000}
"""Bytes in each datagram to a port."""
HEADERS = 28
SENDERS, ROUND = 2, 50
TRANSACTIONS, REFUSED = rounds(1000), rounds(200)

RULES = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:first - [0:0]
:second - [0:0]
-A INPUT -i lo
-A INPUT -p udp --dport 7002 -j ACCEPT
-A OUTPUT -p udp
-A OUTPUT -p udp --dport 7001 -j first
-A OUTPUT -p udp --dport 7002 -j second
-A first -p udp -g second
-A first -p udp
-A second -p udp --dport 7001 -j RETURN
-A second -p udp --dport 7002 -j ACCEPT
COMMIT
"""


class Flood:
    """Processes that send datagrams over lo as fast as they can, to sockets that nobody reads."""

    def __init__(self, namespace: Namespace) -> None:
        context = multiprocessing.get_context("fork")
        self._stop = context.Event()
        self._namespace = namespace
        with namespace:
            self._receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in PAYLOADS]
        for port, receiver in zip(PAYLOADS, self._receivers, strict=True):
            receiver.bind(("127.0.0.1", port))
        self._results: list[Connection] = []
        self._processes = []
        for _ in range(SENDERS):
            result, results = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(namespace, self._stop, results))
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
        return {port: _counters(port, sum(each[port] for each in sent)) for port in PAYLOADS}

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for open_one in (*self._results, *self._receivers):
            open_one.close()


def _send(namespace: Namespace, stop: Event, results: Connection) -> None:
    sent = dict.fromkeys(PAYLOADS, 0)
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while not stop.is_set():
            for port, size in PAYLOADS.items():
                for _ in range(ROUND):
                    sender.sendto(bytes(size), ("127.0.0.1", port))
                sent[port] += ROUND
            if sent[port] == ROUND:
                results.send("it runs")
    results.send(sent)


def _counters(port: int, packets: int) -> Counters:
    return Counters(packets, packets * (PAYLOADS[port] + HEADERS))


def _sum(*parts: Counters) -> Counters:
    return Counters(sum(part.packets for part in parts), sum(part.bytes for part in parts))


@pytest.fixture
def flood(namespace: Namespace) -> Iterator[Flood]:
    """Datagrams on lo, through RULES in the filter table."""
    namespace.run("iptables-legacy-restore", input=RULES)
    running = Flood(namespace)
    try:
        yield running
    finally:
        running.close()


def received(namespace: Namespace) -> int:
    """Packets that lo has taken in: those that were sent, but for what an overfull backlog drops before any rule."""
    with namespace:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.split()[0] == "lo:")


def expect_exact(namespace: Namespace, sent: dict[int, Counters]) -> None:
    """Every rule and policy that RULES brought has counted what was sent, and nothing else."""
    with namespace:
        chains = nfkeep.read("filter").chains
    first, second, both = sent[7001], sent[7002], _sum(sent[7001], sent[7002])
    assert min(each.packets for each in sent.values()) > SENDERS * ROUND, "nothing passed meanwhile"
    assert counted(chains["OUTPUT"]) == {
        "-p udp": _sum(both, sent[7003]),
        "-p udp -m udp --dport 7001 -j first": first,
        "-p udp -m udp --dport 7002 -j second": second,
    }
    assert counted(chains["first"]) == {"-p udp -g second": first, "-p udp": Counters()}
    assert counted(chains["second"]) == {
        "-p udp -m udp --dport 7001 -j RETURN": first,
        "-p udp -m udp --dport 7002 -j ACCEPT": second,
    }
    assert chains["OUTPUT"].counters == _sum(first, sent[7003])
    assert chains["FORWARD"].counters == Counters()
    arrived = counted(chains["INPUT"])
    assert chains["INPUT"].counters is not None
    assert arrived["-i lo"].packets == received(namespace)
    assert arrived["-i lo"] == _sum(chains["INPUT"].counters, arrived["-p udp -m udp --dport 7002 -j ACCEPT"])


def rules() -> dict[str, list[str]]:
    return {name: [str(rule) for rule in chain.rules] for name, chain in nfkeep.read("filter").chains.items()}


def counted(chain: Chain) -> dict[str, Counters]:
    return {str(rule): rule.counters for rule in chain.rules}


def change(tx: TableEdits, chance: random.Random, own: list[tuple[str, str]]) -> None:
    """Put in a rule that no packet here meets, somewhere, or take one out again."""
    if len(own) > 20:
        tx.delete(*own.pop(chance.randrange(len(own))))
        return
    chain = chance.choice(["INPUT", "FORWARD", "OUTPUT", "first", "second"])
    rule = f"-s 10.{chance.randrange(256)}.{chance.randrange(256)}.1 -p tcp -j DROP"
    if chance.random() < 0.5:
        tx.insert(chain, rule)
    else:
        tx.append(chain, rule)
    own.append((chain, rule))


def test_a_thousand_transactions(namespace: Namespace, flood: Flood) -> None:
    """Rules, user chains and policies have counted exactly what passed while the table was written a thousand times."""
    chance = random.Random(1)
    own: list[tuple[str, str]] = []
    with namespace:
        for _ in range(TRANSACTIONS):
            with nfkeep.transaction() as tx:
                change(tx, chance, own)
        sent = flood.stop()
        with nfkeep.transaction() as tx:
            for chain, rule in own:
                tx.delete(chain, rule)
    expect_exact(namespace, sent)


def change_both(second: tuple[str, Family], refused: str, chance: random.Random) -> None:
    with transactions(("filter", Family.IPV4), second) as txs:
        change(txs["filter", Family.IPV4], chance, [])
        txs[second].append("OUTPUT", refused)


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        (("mangle", Family.IPV4), "-p udp -j REJECT"),  # the kernel has REJECT in filter only
        (("filter", Family.IPV6), "-j TCPMSS --set-mss 1"),  # and TCPMSS with -p tcp only
    ],
    ids=["mangle", "ipv6"],
)
def test_refused_transactions(namespace: Namespace, flood: Flood, second: tuple[str, Family], refused: str) -> None:
    """So they have if the kernel refuses the second of two tables each time, and the first one is put back."""
    chance = random.Random(2)
    with namespace:
        before = rules()
        for _ in range(REFUSED):
            with pytest.raises(CommitError) as caught:
                change_both(second, refused, chance)
            assert not caught.value.applied
        sent = flood.stop()
        assert rules() == before
    expect_exact(namespace, sent)
