"""Opening packets are what they claim to be: checked against scapy, which computes checksums on its own."""

from __future__ import annotations

import warnings
from ipaddress import ip_address
from typing import Any

import pytest

from nfkeep.conntrack._ffi import build_packet
from nfkeep.conntrack.identity import new_nonces, payload
from nfkeep.model import Family, Hook

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own deprecations
    import scapy.all as scapy

TCP, UDP = 6, 17
NONCE = 0xDEADBEEF
ENDS = {
    Family.IPV4: ("198.51.100.7", "203.0.113.255"),
    Family.IPV6: ("2001:db8:ffff::1", "fe80::ffff:ffff:ffff:fffe"),
}


def build(family: Family, protocol: int, **more: Any) -> bytes:
    source, destination = (ip_address(end).packed for end in ENDS[family])
    return build_packet(family, protocol, source, destination, 65535, 873, NONCE, **more)


def with_scapys_checksums(raw: bytes, family: Family, layer: Any) -> bytes:
    packet = (scapy.IP if family is Family.IPV4 else scapy.IPv6)(raw)
    del packet[layer].chksum
    if family is Family.IPV4:
        del packet.chksum
    return bytes(packet)


@pytest.mark.parametrize("family", list(Family), ids=str)
@pytest.mark.parametrize("reply", [False, True], ids=["SYN", "SYN/ACK"])
def test_a_tcp_opening_packet(family: Family, reply: bool) -> None:
    """A SYN or SYN|ACK with the nonce as sequence number, a window, and valid checksums."""
    raw = build(family, TCP, reply=reply, acknowledge=77)
    packet = (scapy.IP if family is Family.IPV4 else scapy.IPv6)(raw)
    tcp = packet[scapy.TCP]
    assert raw == with_scapys_checksums(raw, family, scapy.TCP)
    assert (packet.src, packet.dst) == ENDS[family]
    assert (tcp.sport, tcp.dport, tcp.seq, str(tcp.flags)) == (65535, 873, NONCE, "SA" if reply else "S")
    assert tcp.ack == (77 if reply else 0)
    assert tcp.window > 0


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_a_udp_opening_packet(family: Family) -> None:
    """Eight bytes of payload that say whose it is, and valid checksums."""
    raw = build(family, UDP)
    assert raw == with_scapys_checksums(raw, family, scapy.UDP)
    assert raw.endswith(payload(NONCE))


def test_the_ipv4_header() -> None:
    """TTL 64 and "do not fragment"."""
    packet = scapy.IP(build(Family.IPV4, TCP))
    assert (packet.ttl, str(packet.flags), packet.len) == (64, "DF", 40)


def test_a_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    """Zero would mean "none", which IPv6 forbids."""
    for nonce in range(1, 70000):
        raw = build_packet(Family.IPV6, UDP, bytes(16), bytes(16), 0, 0, nonce)
        assert raw[46:48] != b"\0\0"


def test_no_packet_for_other_protocols() -> None:
    """Neither TCP nor UDP: nothing that could be sent."""
    assert build(Family.IPV4, 1) == b""


def test_the_payload_names_the_project_and_the_nonce() -> None:
    """`nfkp` and 32 bits, big-endian."""
    assert payload(0x01020304) == b"nfkp\x01\x02\x03\x04"


def test_nonces_are_different() -> None:
    """One per hook."""
    assert len(set(new_nonces(list(Hook)).values())) == len(Hook)
