"""Recreate and prime on the real kernel: counts come back exactly, and no flow is the worse for it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from select import select

import attrs
import pytest
from guard_text import tcp_match, udp_match

from nfkeep.conntrack import Condition, Conntrack, Injector, Primed, Selector, prime
from nfkeep.conntrack.identity import new_nonces
from nfkeep.model import Family, Hook
from nfkeep.testing import Namespace
from nfkeep.testing.topology import Gateway

pytestmark = pytest.mark.kernel

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
PORT, INNER_PORT, LIMIT = 873, 8730, 6


@attrs.frozen
class Shape:
    """A limiting rule, and the connections that it limits."""

    family: Family = Family.IPV4
    protocol: int = TCP
    hook: Hook = Hook.INPUT
    rule: str = ""
    nat: bool = False
    to_self: bool = False

    @property
    def iptables(self) -> str:
        return "iptables-legacy" if self.family is Family.IPV4 else "ip6tables-legacy"

    @property
    def selector(self) -> Selector:
        """What the caller would find in the rule."""
        port = INNER_PORT if self.nat else PORT
        words = self.rule.split()
        name = words[words.index("-i") + 1].encode() if "-i" in words else b""
        out = words[words.index("-o") + 1].encode() if "-o" in words else b""
        condition = Condition(
            protocol=self.protocol,
            destination_ports=((port, port),),
            in_interface=name,
            in_interface_mask=b"\xff" * (len(name) + bool(name)),
            out_interface=out,
            out_interface_mask=b"\xff" * (len(out) + bool(out)),
        )
        return Selector(self.hook, (condition,), destination_translated=self.nat)


SHAPES = {
    "IPv4 TCP INPUT -i NEW": Shape(rule="-i cli0 -m conntrack --ctstate NEW --syn"),
    "IPv4 TCP INPUT": Shape(rule="--syn"),
    "IPv6 TCP INPUT": Shape(family=Family.IPV6, rule="--syn"),
    "IPv4 UDP INPUT": Shape(protocol=UDP),
    "IPv6 UDP INPUT": Shape(family=Family.IPV6, protocol=UDP),
    "IPv4 TCP FORWARD DNAT MASQUERADE": Shape(hook=Hook.FORWARD, nat=True, rule="-i cli0 -o srv0 --syn"),
    "IPv6 TCP FORWARD DNAT MASQUERADE": Shape(family=Family.IPV6, hook=Hook.FORWARD, nat=True, rule="--syn"),
    "IPv4 UDP FORWARD DNAT MASQUERADE": Shape(protocol=UDP, hook=Hook.FORWARD, nat=True),
    "IPv4 TCP OUTPUT": Shape(hook=Hook.OUTPUT, rule="-o srv0 --syn"),
    "IPv6 TCP OUTPUT": Shape(family=Family.IPV6, hook=Hook.OUTPUT, rule="--syn"),
    "IPv4 TCP INPUT from itself": Shape(rule="-i lo --syn", to_self=True),
}


class World:
    """The gateway with one rule, a listener where the shape wants it, and the connections that were admitted."""

    def __init__(self, shape: Shape, gateway: Gateway, stack: ExitStack) -> None:
        self.shape, self.net, self.stack = shape, gateway, stack
        self.host = gateway.gateway
        family, at_server = shape.family, shape.nat or shape.hook is Hook.OUTPUT
        kind = socket.SOCK_STREAM if shape.protocol == TCP else socket.SOCK_DGRAM
        self.socket_kind = (socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, kind)
        outer = gateway.gateway_address(family) if shape.hook is not Hook.OUTPUT else gateway.server_address(family)
        inner = gateway.server_address(family) if at_server else outer
        self.target = (str(outer), PORT)
        self.dialler = self.host if shape.to_self or shape.hook is Hook.OUTPUT else gateway.client
        protocol = "tcp" if shape.protocol == TCP else "udp"
        self.port = INNER_PORT if shape.nat else PORT
        if shape.nat:
            to = f"{inner}:{INNER_PORT}" if family is Family.IPV4 else f"[{inner}]:{INNER_PORT}"
            self.rule("-t nat -A PREROUTING", f"-p {protocol} --dport {PORT} -j DNAT --to-destination {to}")
            self.rule("-t nat -A POSTROUTING", "-o srv0 -j MASQUERADE")
        self.rule(f"-A {shape.hook.name}", f"-p {protocol} --dport {self.port} {shape.rule}"
                  f" -m connlimit --connlimit-above {LIMIT} -j DROP")  # fmt: skip
        with gateway.server if at_server else self.host:
            self.server = stack.enter_context(socket.socket(*self.socket_kind))
        self.server.bind((str(inner), self.port))
        self.server.settimeout(2)
        if shape.protocol == TCP:
            self.server.listen(100)
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.nonces = new_nonces(list(Hook))

    def rule(self, where: str, rule: str) -> None:
        self.host.run(f"{self.shape.iptables} {where} {rule}")

    def replace_table(self) -> None:
        """Any change does: it resets the counts."""
        self.rule("-A INPUT", "-s {} -j DROP".format("192.0.2.1" if self.shape.family is Family.IPV4 else "fd99::1"))

    def dial(self, attempts: int) -> int:
        """How many of so many attempts were admitted; TCP ones stay."""
        admitted = 0
        for _ in range(attempts):
            with self.dialler:
                client = self.stack.enter_context(socket.socket(*self.socket_kind))
            client.settimeout(0.15)
            if client.connect_ex(self.target):
                client.close()  # it would try again after a second
                continue
            peer = client if self.shape.protocol == UDP else self.stack.enter_context(self.server.accept()[0])
            peer.settimeout(2)
            if peer is not client or self.echo(client, client, wait=0.15):
                self.pairs.append((client, peer))
                admitted += 1
        return admitted

    def echo(self, client: socket.socket, peer: socket.socket, wait: float = 2) -> bool:
        """Whether real data goes both ways."""
        client.settimeout(2)
        try:
            client.send(b"ping")
            if client is peer:
                self.server.settimeout(wait)
                data, sender = self.server.recvfrom(100)
                self.server.sendto(data, sender)
            else:
                peer.send(peer.recv(100))
            return client.recv(100) == b"ping"
        except OSError:
            return False

    def alive(self) -> int:
        return sum(self.echo(client, peer) for client, peer in self.pairs)

    def gate(self, hook: Hook) -> None:
        """Drop what carries the nonce, right behind the hook."""
        self.host.run("nft -f -", input=f"""table inet gate {{ chain c {{
            type filter hook {hook.name.lower()} priority 1
            {tcp_match(self.nonces[hook])} counter drop
            {udp_match(self.nonces[hook])} counter drop
        }}\n}}\n""")  # fmt: skip

    def gated(self) -> int:
        """Packets that the gate dropped."""
        return sum(map(int, re.findall(r"packets (\d+)", self.host.run("nft list table inet gate").stdout)))

    def entries(self) -> dict[str, int]:
        """Each entry as `conntrack` prints it, without id and timeout → its timeout, seconds."""
        family = "ipv4" if self.shape.family is Family.IPV4 else "ipv6"
        found: dict[str, int] = {}
        for line in self.host.run(f"conntrack -L -f {family} -o extended,labels").stdout.splitlines():
            if f"dport={PORT} " in line or f"dport={INNER_PORT} " in line:
                words = line.split()
                timeout = int(words.pop(4))
                found[" ".join(words)] = timeout
        return found

    def wait_for_acks(self) -> None:
        """Data on its way shortens a timeout until it is acknowledged."""
        deadline = time.monotonic() + 5
        while any(timeout < 400_000 for entry, timeout in self.entries().items() if "ESTABLISHED" in entry):
            assert time.monotonic() < deadline

    def nat_counters(self) -> str:
        """Only with a nat table: to list it would make it."""
        return self.host.run(f"{self.shape.iptables} -t nat -vnxL").stdout if self.shape.nat else ""

    def prime(self, *, recreate: bool = True, selector: Selector | None = None, between: object = None) -> Primed:
        wanted = [selector or self.shape.selector]
        with (
            self.host,
            Conntrack() as conntrack,
            Injector() as injector,
            conntrack.select(self.shape.family, wanted) as flows,
        ):
            if callable(between):
                between()
            return prime(conntrack, flows, injector, recreate=recreate, nonces=self.nonces)


@contextmanager
def world(shape: Shape) -> Iterator[World]:
    with Gateway.build() as gateway, ExitStack() as stack:
        yield World(shape, gateway, stack)


def assert_same(before: dict[str, int], after: dict[str, int]) -> None:
    """Tuples, NAT, mark, labels, zone, status and TCP state are the same, timeouts within a second or what passed."""
    assert sorted(before) == sorted(after)
    assert {entry for entry in before if abs(before[entry] - after[entry]) > 2} == set()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_count_comes_back_and_every_flow_lives(shape: Shape) -> None:
    """After a replaced table and a prime not one more is admitted, all entries read as before, and data flows."""
    with world(shape) as it:
        assert it.dial(LIMIT + 2) == LIMIT
        # the rule goes on counting a datagram that it dropped until the next look at its list
        assert shape.protocol == UDP or it.alive() == LIMIT
        it.replace_table()
        assert it.alive() == LIMIT
        it.wait_for_acks()
        it.replace_table()
        it.gate(shape.hook)
        before, counters = it.entries(), it.nat_counters()
        primed = it.prime()
        after = it.entries()
        assert it.nat_counters() == counters
        # a dial that the rule dropped leaves an entry only where it had already left this host
        opening = 2 if shape.to_self else 0
        assert (primed.primed, primed.recreated, primed.vanished, primed.failed) == (LIMIT + opening, LIMIT, 0, {})
        assert primed.packets[shape.hook] == LIMIT + opening
        assert it.gated() == LIMIT  # the rule itself drops the packets of those that it never let in
        assert_same(before, after)
        assert it.alive() == LIMIT
        assert it.dial(2) == 0
        it.pairs.pop()[0].close()


def test_without_prime_the_count_is_lost() -> None:
    """The fault itself, so that the tests above cannot pass by accident."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        assert it.dial(LIMIT + 1) == LIMIT
        it.replace_table()
        assert it.dial(2) == 2


def test_mark_labels_and_zone_stay() -> None:
    """What rules wrote on a flow is on it afterwards, though the same rules see its opening packet again."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        it.rule("-t raw -A PREROUTING", f"-p tcp --dport {PORT} -j CT --zone 7")
        it.rule("-t raw -A OUTPUT", f"-p tcp --sport {PORT} -j CT --zone 7")
        it.rule("-t mangle -A INPUT", "-m conntrack --ctstate NEW -j CONNMARK --set-mark 0x55")
        it.rule("-t mangle -A INPUT", "-m conntrack --ctstate ESTABLISHED -j CONNMARK --set-mark 0x77")
        label = """table ip label { chain c { type filter hook input priority -5
            tcp dport %d ct label set 3
            tcp dport 873 ct label 3 counter\n }\n }\n"""
        it.host.run("nft -f -", input=label % 873)
        assert it.dial(LIMIT) == LIMIT
        assert it.alive() == LIMIT
        it.replace_table()
        it.gate(Hook.INPUT)
        before = it.entries()
        assert all("mark=119" in entry and "zone=7" in entry for entry in before)
        it.host.run("nft -f -", input="delete table ip label\n" + label % 9)  # no longer sets it
        assert it.prime().failed == {}
        assert_same(before, it.entries())
        assert it.alive() == LIMIT
        assert it.dial(1) == 0
        assert "counter packets 0" not in it.host.run("nft list table ip label").stdout


def test_a_flow_that_closed_or_went_is_not_resurrected() -> None:
    """Closed by FIN, by RST, or deleted, between the dump and the prime: it stays what it is."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        assert it.dial(LIMIT) == LIMIT
        it.replace_table()
        it.gate(Hook.INPUT)

        def between() -> None:
            (by_fin, fin_peer), (by_rst, rst_peer), (deleted, _) = it.pairs[:3]
            by_fin.close()
            assert fin_peer.recv(1) == b""
            fin_peer.close()
            by_rst.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            by_rst.close()
            with pytest.raises(ConnectionResetError):
                rst_peer.recv(1)
            it.host.run(f"conntrack -D -p tcp --sport {deleted.getsockname()[1]}")
            del it.pairs[:3]
            deadline = time.monotonic() + 5
            while not any("TIME_WAIT" in entry for entry in it.entries()):
                assert time.monotonic() < deadline

        primed = it.prime(between=between)
        after = it.entries()
        assert (primed.primed, primed.vanished, primed.failed) == (LIMIT - 3, 3, {})
        assert sum("ESTABLISHED" in entry and "[ASSURED]" in entry for entry in after) == LIMIT - 3
        assert all(timeout <= 120 for entry, timeout in after.items() if "ESTABLISHED" not in entry)
        assert it.alive() == LIMIT - 3
        assert it.dial(5) == 3


def test_a_flow_whose_entry_was_made_anew_meanwhile_is_rebuilt() -> None:
    """The kernel picked it up again under another id: CREATE says EEXIST, and it ends ASSURED all the same."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        assert it.dial(LIMIT) == LIMIT
        it.replace_table()
        it.gate(Hook.INPUT)

        def between() -> None:
            it.host.run("conntrack -D -p tcp")
            assert it.alive() == LIMIT

        primed = it.prime(between=between)
        assert (primed.primed, primed.recreated, primed.failed) == (LIMIT, LIMIT, {})
        assert sum("[ASSURED]" in entry for entry in it.entries()) == LIMIT
        assert it.alive() == LIMIT
        assert it.dial(2) == 0


def test_a_flow_that_is_still_opening_is_not_rebuilt() -> None:
    """Neither SEEN_REPLY nor ASSURED: its packet alone counts it, and the handshake goes on."""
    with world(SHAPES["IPv4 TCP FORWARD DNAT MASQUERADE"]) as it:
        it.net.server.run("iptables-legacy -I INPUT -p tcp -j DROP")
        with it.net.client:
            client = it.stack.enter_context(socket.socket(*it.socket_kind))
        client.setblocking(False)
        client.connect_ex(it.target)
        deadline = time.monotonic() + 5
        while not any("SYN_SENT" in entry for entry in it.entries()):
            assert time.monotonic() < deadline
        it.gate(Hook.FORWARD)
        before = it.entries()
        primed = it.prime()
        assert (primed.primed, primed.recreated, primed.vanished) == (1, 0, 0)
        assert_same(before, it.entries())
        it.net.server.run("iptables-legacy -F INPUT")
        assert select([], [client], [], 10)[1]  # the SYN is sent again after a second
        peer, _ = it.server.accept()
        with peer:
            peer.settimeout(2)
            assert it.echo(client, peer)


def test_without_recreate_entries_are_not_touched() -> None:
    """On kernels that count ASSURED flows the packet alone is enough; here it must do no harm."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        assert it.dial(LIMIT) == LIMIT
        it.gate(Hook.INPUT)
        ids = it.host.run("conntrack -L -o id").stdout.split("id=")
        before = it.entries()
        primed = it.prime(recreate=False)
        assert (primed.primed, primed.recreated) == (LIMIT, 0)
        assert_same(before, it.entries())
        assert {part.split()[0] for part in ids[1:]} == {
            part.split()[0] for part in it.host.run("conntrack -L -o id").stdout.split("id=")[1:]
        }
        assert it.alive() == LIMIT


def test_a_reset_by_a_later_rule_does_not_close_the_flow() -> None:
    """REJECT --reject-with tcp-reset sets the entry of the packet that it answers to CLOSE; the flow is not closed."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        assert it.dial(LIMIT) == LIMIT
        it.replace_table()
        it.rule("-I INPUT", f"-p tcp --syn --dport {PORT} -j REJECT --reject-with tcp-reset")
        it.rule("-I OUTPUT", "-p tcp --tcp-flags RST RST -j DROP")
        before = it.entries()
        assert it.prime().primed == LIMIT
        assert "reject-with" in it.host.run("iptables-legacy -vnL INPUT").stdout
        assert_same(before, it.entries())
        assert it.alive() == LIMIT


def test_a_rule_without_syn_gets_the_replies_too() -> None:
    """It counts the server's side under its own key: one packet per direction, and the flows live."""
    with world(SHAPES["IPv4 TCP FORWARD DNAT MASQUERADE"]) as it:
        assert it.dial(LIMIT) == LIMIT
        it.gate(Hook.FORWARD)
        before = it.entries()
        primed = it.prime(selector=Selector(Hook.FORWARD, (Condition(protocol=TCP),), replies=True))
        assert primed.packets[Hook.FORWARD] == 2 * LIMIT
        assert it.gated() == 2 * LIMIT
        assert_same(before, it.entries())
        assert it.alive() == LIMIT


def test_what_cannot_be_primed_is_reported() -> None:
    """A ping matches a rule without a protocol, and there is no way to send its opening packet."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        with it.net.client, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ping:
            ping.settimeout(2)
            ping.sendto(bytes.fromhex("0800f7fd00010001"), ("10.9.0.1", 0))
            ping.recv(100)
        with it.host, Conntrack() as conntrack, conntrack.select(Family.IPV4, [Selector(Hook.INPUT)]) as flows:
            assert (len(flows), flows.counts, dict(flows.skipped)) == (0, (1,), {"protocol": 1})


def test_a_sender_without_a_route_is_reported() -> None:
    """Nobody can tell which interface its packets come in by."""
    namespace = Namespace()
    try:
        namespace.run("conntrack -I -p tcp -s 198.51.100.9 -d 127.0.0.1 --sport 5 --dport 6 --state ESTABLISHED"
                      " -u SEEN_REPLY,ASSURED -t 100")  # fmt: skip
        with namespace, Conntrack() as conntrack, conntrack.select(Family.IPV4, [Selector(Hook.INPUT)]) as flows:
            assert (len(flows), dict(flows.skipped)) == (0, {"interface unknown": 1})
    finally:
        namespace.close()


def test_a_helper_stays_unless_it_expects_connections() -> None:
    """The flow of an FTP command channel keeps its helper; once it expects a data connection it is left alone."""
    with world(SHAPES["IPv4 TCP INPUT"]) as it:
        it.rule("-t raw -A PREROUTING", f"-p tcp --dport {PORT} -j CT --helper ftp")
        assert it.dial(2) == 2
        it.replace_table()
        it.gate(Hook.INPUT)
        before = it.entries()
        assert all("helper=ftp" in entry for entry in before)
        assert it.prime().recreated == 2
        assert_same(before, it.entries())
        client, peer = it.pairs[0]
        client.send(b"PORT 10,9,0,2,200,10\r\n")
        peer.recv(100)
        assert "sport=0" in it.host.run("conntrack -L expect").stdout
        with it.host, Conntrack() as conntrack, conntrack.select(Family.IPV4, [it.shape.selector]) as flows:
            assert (len(flows), flows.counts, dict(flows.skipped)) == (1, (2,), {"expectations": 1})


def test_flows_belong_to_the_conntrack_that_selected_them() -> None:
    """Another one, or a closed one, is refused before anything happens."""
    with (
        world(SHAPES["IPv4 TCP INPUT"]) as it,
        it.host,
        Conntrack() as one,
        Conntrack() as other,
        Injector() as injector,
    ):
        flows = one.select(Family.IPV4, [])
        with pytest.raises(ValueError):
            prime(other, flows, injector, recreate=True, nonces={})
        flows.close()
        with pytest.raises(ValueError):
            prime(one, flows, injector, recreate=True, nonces={})
