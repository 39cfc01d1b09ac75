"""A packet's bytes as one line that a person reads."""

from __future__ import annotations

import ipaddress
import struct

from nfkeep.migrate.verify import wire

_NAMES = {
    wire.ICMP: "ICMP",
    wire.TCP: "TCP",
    wire.UDP: "UDP",
    wire.DCCP: "DCCP",
    wire.GRE: "GRE",
    wire.ESP: "ESP",
    wire.AH: "AH",
    wire.ICMPV6: "ICMPv6",
    wire.SCTP: "SCTP",
    wire.UDPLITE: "UDPLite",
}
_HEADERS = {wire.HOP_BY_HOP: "hop-by-hop", wire.ROUTING: "routing", wire.DESTINATION: "destination options"}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


def describe(data: bytes) -> str:
    """Protocol, addresses, ports and what is not as usual, of a packet from its IP header on."""
    if len(data) < 20 or (data[0] >> 4 == 6 and len(data) < 40):
        return f"{len(data)} bytes {data.hex()}"
    return _ipv4(data) if data[0] >> 4 == 4 else _ipv6(data)


def transport_of(data: bytes) -> tuple[int, int]:
    """The protocol of a packet's transport header, and where it begins."""
    if data[0] >> 4 == 4:
        return data[9], (data[0] & 15) * 4
    following, at = data[6], 40
    while following in (*_HEADERS, wire.FRAGMENT) and at + 8 <= len(data):
        following, at = data[at], at + (8 if following == wire.FRAGMENT else (data[at + 1] + 1) * 8)
    return following, at


def _ipv4(data: bytes) -> str:
    _, tos, length, _, offset, ttl, protocol, _ = struct.unpack_from("!BBHHHBBH", data)
    size = (data[0] & 15) * 4
    notes = [f"ttl {ttl}"]
    if tos:
        notes.append(f"tos {tos:#04x}")
    if size > 20:
        notes.append(f"IP options {data[20:size].hex()}")
    fragment = offset & 0x1FFF
    if fragment or offset & 0x2000:
        notes.append(f"fragment at {fragment * 8}{', more follow' if offset & 0x2000 else ''}")
    if offset & 0x4000:
        notes.append("DF")
    ends = [str(ipaddress.IPv4Address(data[at : at + 4])) for at in (12, 16)]
    return _line(protocol, b"" if fragment else data[size:], ends, [*notes, f"length {length}"])


def _ipv6(data: bytes) -> str:
    word, length, following, ttl = struct.unpack_from("!IHBB", data)
    notes = [f"hop limit {ttl}"]
    if tos := word >> 20 & 0xFF:
        notes.append(f"traffic class {tos:#04x}")
    at, later = 40, False
    while following in (*_HEADERS, wire.FRAGMENT, wire.AH) and at + 8 <= len(data) and not later:
        if following == wire.FRAGMENT:
            offset = struct.unpack_from("!H", data, at + 2)[0]
            later = offset >> 3 != 0
            notes.append(f"fragment at {offset & ~7}{', more follow' if offset & 1 else ''}")
            size = 8
        elif following == wire.AH:
            notes.append(f"AH spi {struct.unpack_from('!I', data, at + 4)[0]:#x}")
            size = (data[at + 1] + 2) * 4
        else:
            size = (data[at + 1] + 1) * 8
            notes.append(f"{_HEADERS[following]} header {data[at + 1 : at + min(size, 8)].hex()}")
        following, at = data[at], at + size
    ends = [str(ipaddress.IPv6Address(data[at : at + 16])) for at in (8, 24)]
    return _line(following, b"" if later else data[at:], ends, [*notes, f"length {length}"])


def _line(protocol: int, inner: bytes, ends: list[str], notes: list[str]) -> str:
    source, destination = ends
    name = _NAMES.get(protocol, f"protocol {protocol}")
    if protocol in wire.WITH_PORTS and len(inner) >= 4:
        sport, dport = struct.unpack_from("!HH", inner)
        between = f"{_end(source, sport)} > {_end(destination, dport)}"
    else:
        between = f"{source} > {destination}"
    if protocol == wire.TCP and len(inner) >= 14:
        name += f" {'+'.join(each for bit, each in enumerate(_FLAGS) if inner[13] >> bit & 1) or 'no flags'}"
        size = (inner[12] >> 4) * 4
        if size > 20:
            notes.insert(0, f"options {inner[20:size].hex()}")
    elif protocol in (wire.ICMP, wire.ICMPV6) and len(inner) >= 2:
        name += f" type {inner[0]} code {inner[1]}"
    elif protocol in (wire.ESP, wire.AH) and len(inner) >= 8:
        name += f" spi {struct.unpack_from('!I', inner, 0 if protocol == wire.ESP else 4)[0]:#x}"
    elif protocol == wire.SCTP and len(inner) >= 13:
        name += f" chunk {inner[12]}"
    elif protocol == wire.DCCP and len(inner) >= 9:
        name += f" type {inner[8] >> 1 & 15}"
    return f"{name} {between} ({', '.join(notes)})"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
