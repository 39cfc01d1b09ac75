"""Flows that the caller leaves out are as if they had not been selected; for the others each packet is told."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from select import select

import pytest
from ctnetlink import read_entries
from guard_text import tcp_match

from nfkeep.conntrack import Condition, Conntrack, Injector, Selector, prime
from nfkeep.model import Family, Hook
from nfkeep.nft.wire import MESSAGE_HEAD, attribute, attributes, nest
from nfkeep.testing import Namespace, pair

pytestmark = pytest.mark.kernel

PORT = 873
NONCES = {Hook.INPUT: 7, Hook.OUTPUT: 8}
PORTS = range(20000, 20006)
CREATE, UPDATE = 0x605, 0x5  # NLM_F_*
INPUT = Selector(Hook.INPUT, (Condition(protocol=6, destination_ports=((PORT, PORT),)),))
OUTPUT = Selector(Hook.OUTPUT, (Condition(protocol=6, source_ports=((PORT, PORT),)),), replies=True)


def write_entry(namespace: Namespace, port: int, flags: int) -> None:
    """An established, ASSURED connection from 10.7.1.1, that has had replies, without any packet."""
    ends = [socket.inet_aton(address) for address in ("10.7.1.1", "10.7.0.1")]
    ports = [struct.pack("!H", each) for each in (port, PORT)]
    content = b""
    for kind, step in ((1, 1), (2, -1)):  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
        addresses = b"".join(attribute(1 + i, each) for i, each in enumerate(ends[::step]))
        protocol = attribute(1, b"\6") + b"".join(attribute(2 + i, each) for i, each in enumerate(ports[::step]))
        content += nest(kind, nest(1, addresses) + nest(2, protocol))
    content += attribute(3, struct.pack("!I", 14)) + attribute(7, struct.pack("!I", 3600))  # CTA_STATUS, CTA_TIMEOUT
    content += nest(4, nest(1, attribute(1, b"\3")))  # TCP_CONNTRACK_ESTABLISHED
    with namespace, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as ctnetlink:
        ctnetlink.send(MESSAGE_HEAD.pack(MESSAGE_HEAD.size + len(content), 0x100, flags, 1, 0, 2, 0, 0) + content)
        assert struct.unpack_from("=i", ctnetlink.recv(4096), 16)[0] == 0


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with eth0 10.7.0.1/16, a limiting rule, and six established connections from 10.7.1.1."""
    namespace, peer = Namespace(), Namespace()
    try:
        pair(namespace, "eth0", peer, "eth0")
        namespace.run("ip address add 10.7.0.1/16 dev eth0")
        namespace.run("sysctl -qw net.netfilter.nf_conntrack_events=1")
        namespace.run(f"iptables-legacy -A INPUT -p tcp --syn --dport {PORT} -m connlimit --connlimit-above 9 -j DROP")
        namespace.run(f"iptables-legacy -I INPUT -p tcp --syn --dport {PORT}")
        sinks = "".join(
            f"chain {hook.name} {{ type filter hook {hook.name.lower()} priority 1\n {tcp_match(nonce)} drop\n }}\n"
            for hook, nonce in NONCES.items()
        )
        namespace.run("nft -f -", input=f"table inet gate {{\n{sinks}}}\n")
        for port in PORTS:
            write_entry(namespace, port, CREATE)
        yield namespace
    finally:
        namespace.close()
        peer.close()


@contextmanager
def taken_down(host: Namespace) -> Iterator[set[int]]:
    """The client ports of the entries that are deleted meanwhile, as the kernel tells it."""
    ports: set[int] = set()
    with host, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as events:
        events.bind((0, 1 << 2))  # NFNLGRP_CONNTRACK_DESTROY
        yield ports
        while select([events], [], [], 0)[0]:
            entry = dict(attributes(events.recv(8192)[20:]))
            original = dict(attributes(entry[1]))
            ports.add(int.from_bytes(dict(attributes(original[2]))[2], "big"))


def passed(host: Namespace) -> int:
    """SYNs that met the rules."""
    return int(host.run("iptables-legacy -vnxL INPUT 1").stdout.split()[0])


def test_what_is_left_out_keeps_its_entry_and_gets_no_packet(host: Namespace) -> None:
    """The first and the last two of six, which is no order of theirs: three others are rebuilt."""
    with (
        taken_down(host) as rebuilt,
        Conntrack() as conntrack,
        Injector() as injector,
        conntrack.select(Family.IPV4, [INPUT]) as flows,
    ):
        flows.leave_out([0])
        flows.leave_out([4, 5, 5])
        assert len(flows) == 6
        primed = prime(conntrack, flows, injector, recreate=True, nonces=NONCES)
        assert flows.sent().tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert (primed.primed, primed.recreated, primed.unsent, primed.packets[Hook.INPUT]) == (3, 3, 0, 3)
    assert passed(host) == 3
    assert len(rebuilt) == 3
    assert {each.source_port for each in read_entries(host, Family.IPV4)} == set(PORTS)


def test_where_all_is_left_out_nothing_is_done(host: Namespace) -> None:
    """No entry is touched, no packet is sent."""
    with (
        taken_down(host) as rebuilt,
        Conntrack() as conntrack,
        Injector() as injector,
        conntrack.select(Family.IPV4, [INPUT]) as flows,
    ):
        flows.leave_out(range(6))
        primed = prime(conntrack, flows, injector, recreate=True, nonces=NONCES)
        assert not any(flows.sent())
    assert (primed.primed, primed.recreated, passed(host)) == (0, 0, 0)
    assert not rebuilt


def test_second_turns_and_replies_are_among_the_packets_told(host: Namespace) -> None:
    """One flow got a reply before its first opening packet: its second turn sends both of its packets again."""
    turns: list[int] = []

    def between() -> None:
        if not turns:
            write_entry(host, PORTS[3], UPDATE)
        turns.append(1)

    with host, Conntrack() as conntrack, Injector() as injector:
        flows = conntrack.select(Family.IPV4, [INPUT, OUTPUT])
        primed = prime(
            conntrack, flows, injector,
            recreate=True, nonces=NONCES, settle=lambda packets: None, _between=between,
        )  # fmt: skip
        sent = flows.sent().tolist()
        flows.close()
    assert len(turns) == 2
    pairs = sorted(zip(sent[::2], sent[1::2], strict=True))
    assert pairs == [(1, 1)] * 5 + [(2, 2)]
    assert (primed.primed, primed.packets[Hook.INPUT], primed.packets[Hook.OUTPUT]) == (6, 7, 7)


def test_what_cannot_be_is_refused(host: Namespace) -> None:
    """There is no seventh flow and none before the first; closed, there is none at all."""
    with host, Conntrack() as conntrack, Injector() as injector:
        flows = conntrack.select(Family.IPV4, [INPUT])
        for wrong in ([0, 6], [2, -1]):
            with pytest.raises(IndexError):
                flows.leave_out(wrong)
        assert prime(conntrack, flows, injector, recreate=True, nonces=NONCES).primed == 6
        flows.close()
        with pytest.raises(ValueError):
            flows.leave_out([])
        with pytest.raises(ValueError):
            flows.sent()
