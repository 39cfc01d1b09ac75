"""Packets of the comparison: their bytes are right, and the same rules give the same ones."""

from __future__ import annotations

import random

import attrs
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from nfkeep import Family
from nfkeep.migrate.source import read_source
from nfkeep.migrate.verify import Packet, wire
from nfkeep.migrate.verify.derive import packets_for
from nfkeep.migrate.verify.fields.choices import around
from nfkeep.migrate.verify.words import Word, read_words
from nfkeep.xtables.text import split

V4, V6 = Family.IPV4, Family.IPV6
ENDS = {V4: ("192.0.2.1", "203.0.113.9"), V6: ("2001:db8::1", "2001:db8::2")}
FIELDS = {
    "TCP": {"protocol": wire.TCP, "tcp_options": b"\2\4\5\xb4\1\1\4\2", "flags": 0xC2},
    "UDP": {"protocol": wire.UDP, "payload": b"odd"},
    "SCTP": {"protocol": wire.SCTP},
    "GRE": {"protocol": wire.GRE},
    "a class of traffic": {"tos": 0xB9, "ttl": 3},
    "any protocol": {"protocol": 99},
}


@pytest.mark.parametrize("family", list(Family), ids=str)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_scapy_would_write_the_same(family: Family, fields: dict[str, object]) -> None:
    """Taken apart and put together again, with all lengths and checksums reckoned anew, a packet is the same."""
    packet = Packet(family, "in0", None, *ENDS[family], sport=1234, dport=53, **fields)
    taken = (IP if family is V4 else IPv6)(packet.bytes)
    layer = taken
    while layer:
        for name in ("len", "plen", "chksum", "ihl", "dataofs"):
            if name in layer.fields and not (layer.name == "GRE" and name == "chksum"):
                delattr(layer, name)
        layer = layer.payload
    assert bytes(taken) == packet.bytes


@pytest.mark.parametrize(("family", "kind"), [(V4, wire.ICMP), (V6, wire.ICMPV6)], ids=["IPv4", "IPv6"])
def test_checksum_of_icmp(family: Family, kind: int) -> None:
    """The sum over an ICMP message, with what goes before it in IPv6, comes out even."""
    packet = Packet(family, "in0", None, *ENDS[family], protocol=kind, identifier=7, payload=b"abc")
    head = 20 if family is V4 else 40
    message = packet.bytes[head:]
    pseudo = packet.bytes[8:40] + len(message).to_bytes(4, "big") + bytes([0, 0, 0, kind]) if family is V6 else b""
    assert wire.checksum(pseudo + message) == 0


def test_headers_of_ipv6() -> None:
    """Each extension header names the next one, and the last the protocol."""
    headers = (wire.HOP_BY_HOP, wire.options_header()), (wire.DESTINATION, wire.options_header(16))
    packet = Packet(V6, "in0", None, *ENDS[V6], protocol=wire.UDP, dport=53, extensions=headers, more=True)
    taken = IPv6(packet.bytes)
    assert (taken.nh, taken.payload.nh, taken.payload.payload.nh) == (0, 60, 44)
    assert taken.payload.payload.payload.nh == wire.UDP
    assert taken.plen == len(packet.bytes) - 40


def test_later_fragment_looks_like_a_header() -> None:
    """What a later fragment begins with could be taken for ports."""
    packet = Packet(V4, "in0", None, *ENDS[V4], protocol=wire.UDP, sport=1, dport=53, fragment=2)
    whole = attrs.evolve(packet, fragment=0)
    assert packet.bytes[20:] == whole.bytes[20:]
    assert UDP(whole.bytes[20:]).dport == 53


RULES = "*filter\n:INPUT ACCEPT [0:0]\n:x - [0:0]\n-A INPUT -p tcp -j x\n-A x -m tcp --dport 80:90 -j DROP\nCOMMIT\n"


def test_same_rules_same_packets() -> None:
    """The sequence hangs on rules, number and seed alone."""
    source = read_source(RULES, V4)
    random.seed(1)
    first = packets_for(source, 100, 5)
    random.seed(2)
    assert packets_for(source, 100, 5) == first
    assert packets_for(source, 100, 6) != first


def test_boundaries_of_a_rule_behind_a_jump() -> None:
    """The rule in the other chain is tried at and beside the ends of its range, in packets that jump there."""
    found = {each.dport for each in packets_for(read_source(RULES, V4), 60, 0) if each.protocol == wire.TCP}
    assert {79, 80, 90, 91} <= found


@pytest.mark.parametrize(
    ("given", "inside", "outside"),
    [
        ((80, 90, 65535), [80, 90, 85], [79, 91, 0, 65535]),
        ((0, 65535, 65535), [0, 65535, 32767], []),
        ((0, 0, 255), [0], [1, 255]),
    ],
)
def test_around(given: tuple[int, int, int], inside: list[int], outside: list[int]) -> None:
    """Ends and middle inside; the neighbours and the extremes outside, if there are any."""
    assert around(*given) == (inside, outside)


def test_words() -> None:
    """Options belong to their matches, negations to their options, also in the old places."""
    text = '! -s 10.0.0.1/32 -p tcp -m tcp ! --dport 22 --tcp-flags SYN,RST SYN -m limit -j LOG --log-prefix "-x "'
    words = read_words(split(text))
    assert words.conditions == (
        Word("", "-s", ("10.0.0.1/32",), True),
        Word("", "-p", ("tcp",), False),
        Word("tcp", "-m", ("tcp",), False),
        Word("tcp", "--dport", ("22",), True),
        Word("tcp", "--tcp-flags", ("SYN,RST", "SYN"), False),
        Word("limit", "-m", ("limit",), False),
    )
    assert words.target == "LOG"
    assert words.options == (Word("LOG", "--log-prefix", ("-x ",), False),)
    assert read_words(["--dport", "!", "22"]).conditions[0] == Word("", "--dport", ("22",), True)
