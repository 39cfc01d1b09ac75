"""Real packets that come between the rebuilding of a flow and its opening packet: then the flow has another turn."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from ctnetlink import delete_entry, read_entries
from guard_text import tcp_match, udp_match
from rounds import rounds

from nfkeep.conntrack import Condition, Conntrack, Injector, Primed, Selector, prime
from nfkeep.conntrack.identity import new_nonces
from nfkeep.model import Family, Hook
from nfkeep.testing import Connection, EchoServer, Gateway, Namespace, Transfer, abort_all, dial, living
from nfkeep.testing.topology import pair

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PORT, LIMIT = 873, 6
NUMBERS = {"tcp": 6, "udp": 17}


class Limited:
    """A gateway that admits LIMIT connections of a client to its port, and drops nfkeep's packets behind that rule."""

    def __init__(self, gateway: Gateway, kind: str) -> None:
        self.gateway, self.host, self.kind = gateway, gateway.gateway, kind
        syn = "--syn" if kind == "tcp" else ""
        verdict = "REJECT --reject-with tcp-reset" if kind == "tcp" else "DROP"
        self.host.run(f"iptables-legacy -A INPUT -p {kind} --dport {PORT} {syn} -m conntrack --ctstate NEW"
                      f" -m connlimit --connlimit-above {LIMIT} -j {verdict}")  # fmt: skip
        self.nonces = new_nonces([Hook.INPUT])
        own = tcp_match(self.nonces[Hook.INPUT]) if kind == "tcp" else udp_match(self.nonces[Hook.INPUT])
        chain = f"chain c {{ type filter hook input priority 1\n {own} counter drop\n }}"
        self.host.run("nft -f -", input=f"table inet gate {{ {chain}\n }}\n")
        self.selector = Selector(Hook.INPUT, (Condition(protocol=NUMBERS[kind], destination_ports=((PORT, PORT),)),))
        self.changes = 0
        self.others: list[Selector] = []
        self.settle: Callable[[Mapping[Hook, int]], None] | None = None

    def replace_table(self) -> None:
        self.changes += 1
        self.host.run(f"iptables-legacy -A INPUT -s 192.0.2.{self.changes} -j DROP")

    def prime(self, between: Callable[[], None] | None = None, *, rounds: int = 8, batch: int = 128) -> Primed:
        with (
            self.host,
            Conntrack() as conntrack,
            Injector() as injector,
            conntrack.select(Family.IPV4, [self.selector, *self.others]) as flows,
        ):
            return prime(
                conntrack, flows, injector,
                recreate=True, nonces=self.nonces, rounds=rounds, batch=batch, settle=self.settle, _between=between,
            )  # fmt: skip

    def entries(self) -> list[str]:
        """Each entry as `conntrack` prints it, without its timeout; of UDP without ASSURED, which soon follows."""
        lines = self.host.run(f"conntrack -L -p {self.kind}").stdout.splitlines()
        found = (" ".join([*line.split()[:2], *line.split()[3:]]) for line in lines if f"dport={PORT} " in line)
        return sorted(entry if self.kind == "tcp" else entry.replace("[ASSURED] ", "") for entry in found)


class Pairs:
    """LIMIT connections, both ends in hand."""

    def __init__(self, limited: Limited, stack: ExitStack) -> None:
        self.limited, self.stack = limited, stack
        self.target = ("10.9.0.1", PORT)
        with limited.host:
            kind = socket.SOCK_STREAM if limited.kind == "tcp" else socket.SOCK_DGRAM
            self.server = stack.enter_context(socket.socket(socket.AF_INET, kind))
        self.server.bind(self.target)
        self.server.settimeout(0.2)
        if limited.kind == "tcp":
            self.server.listen(100)
        self.clients: list[socket.socket] = []
        self.peers: list[socket.socket] = []

    def dial(self, attempts: int) -> int:
        """How many of so many were admitted."""
        before = len(self.clients)
        for _ in range(attempts):
            with self.limited.gateway.client:
                client = self.stack.enter_context(socket.socket(socket.AF_INET, self.server.type))
            client.settimeout(1)
            try:
                client.connect(self.target)
                if self.limited.kind == "tcp":
                    self.peers.append(self.stack.enter_context(self.server.accept()[0]))
                else:
                    client.send(b"x")
                    self.server.recv(1)
            except OSError:
                continue
            self.clients.append(client)
            self.reply(len(self.clients) - 1)
        return len(self.clients) - before

    def reply(self, number: int) -> None:
        """One packet from the server; TCP of the client acknowledges it."""
        if self.limited.kind == "tcp":
            self.peers[number].send(b"y")
        else:
            self.server.sendto(b"y", self.clients[number].getsockname())
        assert self.clients[number].recv(1) == b"y"


@pytest.fixture(params=["tcp", "udp"])
def pairs(request: pytest.FixtureRequest) -> Iterator[Pairs]:
    with Gateway.build() as gateway, ExitStack() as stack:
        it = Pairs(Limited(gateway, request.param), stack)
        assert it.dial(LIMIT + 1) == LIMIT
        it.limited.replace_table()
        yield it


def test_a_reply_that_was_first_costs_another_turn(pairs: Pairs) -> None:
    """Two flows answer between CREATE and the opening packet: they are done again, and the limit holds."""
    turns: list[int] = []

    def between() -> None:
        if not turns:
            pairs.reply(0)
            pairs.reply(3)
        turns.append(1)

    before = pairs.limited.entries()
    primed = pairs.limited.prime(between)
    assert len(turns) == 2
    assert (primed.primed, primed.recreated, primed.uncertain, primed.unsent) == (LIMIT, LIMIT, 0, 0)
    assert primed.packets[Hook.INPUT] == LIMIT + 2
    assert pairs.limited.entries() == before
    assert pairs.dial(2) == 0


@pytest.mark.parametrize("replies", [False, True])
def test_where_packets_are_queued_the_check_comes_after_the_pause(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch, replies: bool
) -> None:
    """Replies that come while the caller waits cost another turn too, since nobody knows which was first.

    Also where rules count the packets of the server: nfkeep's own ones are not mistaken for real ones.
    """
    heard: list[int] = []

    def settle(packets: Mapping[Hook, int]) -> None:
        heard.append(sum(packets.values()))
        if len(heard) == 1:
            pairs.reply(1)

    limited = pairs.limited
    limited.settle = settle
    limited.nonces |= {Hook.OUTPUT: 99, Hook.POSTROUTING: 98}
    own = tcp_match(99) if limited.kind == "tcp" else udp_match(99)
    chain = f"chain o {{ type filter hook output priority 1\n {own} counter drop\n }}"
    limited.host.run("nft -f -", input=f"table inet gate {{ {chain}\n }}\n")
    limited.others = [Selector(Hook.OUTPUT, (Condition(protocol=NUMBERS[limited.kind]),), replies=True)] * replies
    monkeypatch.setattr(Injector, "synchronous", lambda self, ifindex: False)
    before = limited.entries()
    primed = limited.prime()
    assert heard == ([6, 12, 13, 14] if replies else [6, 7])
    assert (primed.primed, primed.uncertain, primed.unsent) == (LIMIT, 0, 0)
    assert limited.entries() == before
    assert pairs.dial(2) == 0


def test_without_another_turn_the_count_is_short(pairs: Pairs) -> None:
    """The fault itself: one flow that answered first is not counted, and one more gets in. At least it is reported."""
    primed = pairs.limited.prime(lambda: pairs.reply(2), rounds=0)
    assert (primed.primed, primed.uncertain) == (LIMIT, 1)
    assert pairs.dial(2) == 1


def test_a_flow_that_always_answers_first_is_reported(pairs: Pairs) -> None:
    """Every turn fails: after eight more the flow is called uncertain, and it is whole."""
    before = pairs.limited.entries()
    primed = pairs.limited.prime(lambda: pairs.reply(2))
    assert (primed.primed, primed.recreated, primed.uncertain) == (LIMIT, LIMIT, 1)
    assert primed.packets[Hook.INPUT] == LIMIT + 8
    assert pairs.limited.entries() == before


def test_a_mark_that_a_rule_changes_meanwhile_is_put_back(pairs: Pairs) -> None:
    """The opening packet meets CONNMARK --set-mark; a flow without a mark has none afterwards, one with 5 has 5."""
    host, kind = pairs.limited.host, pairs.limited.kind
    marks = f"OUTPUT -p {kind} --dport {pairs.clients[0].getsockname()[1]} -j CONNMARK --set-mark 5"
    host.run(f"iptables-legacy -t mangle -A {marks}")
    pairs.reply(0)
    host.run(f"iptables-legacy -t mangle -D {marks}")
    host.run("iptables-legacy -t mangle -A INPUT -m conntrack --ctstate NEW -j CONNMARK --set-mark 9")
    before = pairs.limited.entries()
    assert sum("mark=5" in entry for entry in before) == 1
    turns: list[int] = []

    def between() -> None:
        if not turns:
            pairs.reply(0)
            pairs.reply(1)
        turns.append(1)

    assert pairs.limited.prime(between).uncertain == 0
    assert pairs.limited.entries() == before


def test_gone_or_closed_before_another_turn(pairs: Pairs) -> None:
    """All six answered first. One is deleted and, of TCP, one closed before its second turn: neither is resurrected."""
    host, kind = pairs.limited.host, pairs.limited.kind
    turns: list[int] = []

    def between() -> None:
        turns.append(1)
        if len(turns) <= 2:  # both batches of first turns
            for number in range(LIMIT):
                pairs.reply(number)
        elif len(turns) == 3:  # four are rebuilt, the turn of two is to come
            # Over ctnetlink, as all second turns together have a second.
            whole = {each.source_port: each for each in read_entries(host, Family.IPV4) if each.replied}
            gone, closed = (one for one in pairs.clients if one.getsockname()[1] in whole)
            delete_entry(host, Family.IPV4, whole[gone.getsockname()[1]])
            if kind == "tcp":
                closed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                closed.close()

    primed = pairs.limited.prime(between, batch=4)
    assert len(turns) == 4
    assert (primed.primed, primed.uncertain) == (LIMIT, 0)
    after = pairs.limited.entries()
    assert len(after) == LIMIT - 1
    assert sum("CLOSE" in entry for entry in after) == (kind == "tcp")


KILLED = """
import os, signal, socket
from nfkeep.conntrack import *
from nfkeep.conntrack._ffi import build_packet
from nfkeep.model import Family, Hook
turns = 0
def between():
    global turns
    for port in range(4000, 4040) if turns == 0 else ():
        reply = build_packet(Family.IPV4, 6, here, there, 873, port, 99, reply=True)
        raw.sendto(reply, (socket.inet_ntoa(there), 0))
    if turns == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    turns += 1
here, there = socket.inet_aton("10.7.0.1"), socket.inet_aton("10.7.1.1")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
limited = [Selector(Hook.INPUT, (Condition(protocol=6),))]
with Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, limited) as flows:
    prime(conntrack, flows, injector, recreate=True, nonces={Hook.INPUT: 7}, _between=between)
"""


def test_killed_in_another_turn_no_flow_is_left_half_done() -> None:
    """SIGKILL between CREATE and the status in the second of the small batches: the guardian makes all whole."""
    host, peer = Namespace(), Namespace()
    try:
        pair(host, "eth0", peer, "eth0")
        host.run("ip address add 10.7.0.1/16 dev eth0")
        host.run("iptables-legacy -A INPUT -m conntrack --ctstate NEW -j DROP")
        for number in range(40):
            host.run(f"conntrack -I -p tcp -s 10.7.1.1 -d 10.7.0.1 --sport {4000 + number} --dport {PORT} -t 900"
                     " --state ESTABLISHED -u SEEN_REPLY,ASSURED")  # fmt: skip
        with host:
            done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, check=False, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        lines = host.run("conntrack -L -p tcp").stdout.splitlines()
        assert len(lines) == 40
        assert [line for line in lines if "UNREPLIED" in line or "[ASSURED]" not in line] == []
    finally:
        host.close()
        peer.close()


def test_the_limit_holds_under_heavy_traffic() -> None:
    """Four clients at their limit, every connection busy both ways; after each of many changes none more gets in."""
    with Gateway.build(4) as gateway, ExitStack() as stack:
        limited = Limited(gateway, "tcp")
        stack.enter_context(EchoServer(limited.host, Family.IPV4, "tcp", "10.9.0.1", PORT))
        sources = gateway.client_addresses(Family.IPV4)

        def knock(count: int) -> list[Connection]:
            admitted = dial(gateway.client, Family.IPV4, "tcp", "10.9.0.1", PORT, count, source=sources, timeout=1)
            stack.callback(abort_all, admitted)
            return admitted

        connections = knock(4 * (LIMIT + 1))
        assert len(connections) == 4 * LIMIT
        again = 0
        transfers = [stack.enter_context(Transfer(one, chunk_bytes=64, pause_seconds=0)) for one in connections]
        for _ in range(rounds(20)):
            limited.replace_table()
            primed = limited.prime()
            assert (primed.primed, primed.uncertain, primed.failed) == (4 * LIMIT, 0, {})
            again += primed.packets[Hook.INPUT] - 4 * LIMIT
            assert len(knock(4)) == 0
        assert again > 0  # else there was too little traffic to prove anything
        assert all(transfer.stop().intact for transfer in transfers)
        assert len(living(connections)) == 4 * LIMIT
