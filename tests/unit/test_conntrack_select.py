"""Conditions hold for a packet exactly as ip_tables and xt_multiport decide it."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from nfkeep.conntrack import Condition, Selector
from nfkeep.conntrack._ffi import holds
from nfkeep.model import Family, Hook

TCP, UDP, ICMP = 6, 17, 1
A, B = socket.inet_aton("10.1.2.3"), socket.inet_aton("192.0.2.80")
A6, B6 = ip_address("2001:db8::1").packed, ip_address("2001:db8:0:1::2").packed
ANY_NET = struct.pack("!I", 0)

CASES = {
    "nothing asked": (Condition(), True),
    "its protocol": (Condition(protocol=TCP), True),
    "another protocol": (Condition(protocol=UDP), False),
    "not another protocol": (Condition(protocol=UDP, protocol_inverted=True), True),
    "not its protocol": (Condition(protocol=TCP, protocol_inverted=True), False),
    "not any protocol, which ip_tables ignores": (Condition(protocol_inverted=True), True),
    "its source": (Condition(source=A), True),
    "its source, inverted": (Condition(source=A, source_inverted=True), False),
    "its network": (Condition(source=bytes([10, 1, 0, 0]), source_mask=bytes([255, 255, 0, 0])), True),
    "a bit outside the mask": (Condition(source=A, source_mask=bytes([255, 255, 0, 0])), False),
    "a mask with holes": (Condition(source=bytes([10, 0, 0, 3]), source_mask=bytes([255, 0, 0, 255])), True),
    "a mask with holes, another": (Condition(source=bytes([10, 0, 0, 4]), source_mask=bytes([255, 0, 0, 255])), False),
    "not anywhere": (Condition(source=ANY_NET, source_mask=ANY_NET, source_inverted=True), False),
    "its destination": (Condition(destination=B), True),
    "another destination": (Condition(destination=A), False),
    "its port": (Condition(destination_ports=((80, 80),)), True),
    "in the second range": (Condition(destination_ports=((1, 2), (70, 90))), True),
    "just above the range": (Condition(destination_ports=((70, 79),)), False),
    "not in the range": (Condition(destination_ports=((70, 79),), destination_ports_inverted=True), True),
    "source port": (Condition(source_ports=((40000, 65535),)), True),
    "either, by source": (Condition(either_ports=((40000, 40000),)), True),
    "either, by destination": (Condition(either_ports=((80, 80),)), True),
    "either, by none": (Condition(either_ports=((81, 81),)), False),
    "either, inverted": (Condition(either_ports=((80, 80),), either_ports_inverted=True), False),
    "its interface": (Condition(in_interface=b"eth0", in_interface_mask=b"\xff" * 5), True),
    "its interface by prefix": (Condition(in_interface=b"eth", in_interface_mask=b"\xff" * 3), True),
    "a longer name": (Condition(in_interface=b"eth", in_interface_mask=b"\xff" * 4), False),
    "not its interface": (
        Condition(in_interface=b"eth0", in_interface_mask=b"\xff" * 5, in_interface_inverted=True),
        False,
    ),
    "an unknown way out": (Condition(out_interface=b"eth9", out_interface_mask=b"\xff" * 5), True),
    "all at once": (
        Condition(protocol=TCP, source=A, destination=B, destination_ports=((80, 80),), in_interface=b"eth0"),
        True,
    ),
}


@pytest.mark.parametrize(("condition", "expected"), CASES.values(), ids=CASES.keys())
def test_condition_for_a_tcp_packet(condition: Condition, expected: bool) -> None:
    """From 10.1.2.3:40000 to 192.0.2.80:80, in by eth0, out by an interface that is not known."""
    assert expected == holds(condition, Family.IPV4, TCP, A, B, 40000, 80, b"eth0", None)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_port_condition_never_holds_without_ports(inverted: bool) -> None:
    """ICMP matches neither `--dport 80` nor `! --dport 80`."""
    condition = Condition(destination_ports=((80, 80),), destination_ports_inverted=inverted)
    assert not holds(condition, Family.IPV4, ICMP, A, B)


def test_all_bits_of_an_ipv6_address_count() -> None:
    """A /64 holds for its network and not for the next one."""
    mask = b"\xff" * 8 + bytes(8)
    condition = Condition(source=ip_address("2001:db8::").packed, source_mask=mask)
    assert holds(condition, Family.IPV6, TCP, A6, B6, 1, 2)
    assert not holds(condition, Family.IPV6, TCP, B6, A6, 1, 2)


@pytest.mark.parametrize(
    "wrong",
    [{"source": b"123"}, {"in_interface": b"x" * 17}, {"source_ports": ((5, 4),)}, {"either_ports": ((0, 65536),)}],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object]) -> None:
    """Validation happens when the value is made."""
    with pytest.raises(ValueError):
        Condition(**wrong)  # type: ignore[arg-type]


def test_selectors_are_values() -> None:
    """Two that ask the same are equal and hash alike."""
    assert {Selector(Hook.INPUT, (Condition(protocol=TCP),))} == {Selector(Hook.INPUT, (Condition(protocol=TCP),))}
