"""Packets from their fields, by struct alone: IPv4 and IPv6, their options and extension headers, and what is in them.

Checksums are right unless a packet is cut short. Numbers of protocols and headers are IANA's.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.migrate.verify.packet import Packet

ICMP, TCP, UDP, DCCP, GRE, ESP, AH, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 47, 50, 51, 58, 132, 136
IPCOMP, MOBILITY = 108, 135
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
_DCCP_LENGTHS = {0: 20, 1: 28, 2: 16, 3: 24, 4: 24, 5: 24, 6: 24, 7: 28, 8: 24, 9: 24}


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP, RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def build(packet: Packet) -> bytes:
    """The packet from its IP header on."""
    kind = socket.AF_INET if packet.family is Family.IPV4 else socket.AF_INET6
    source, destination = socket.inet_pton(kind, packet.source), socket.inet_pton(kind, packet.destination)
    inner = packet.transport if packet.transport is not None else _transport(packet, source, destination)
    if packet.cut is not None:
        inner = inner[: packet.cut]
    if packet.family is Family.IPV4:
        return _ipv4(packet, source, destination, inner)
    return _ipv6(packet, source, destination, inner)


def _ipv4(packet: Packet, source: bytes, destination: bytes, inner: bytes) -> bytes:
    options = packet.ip_options + bytes(-len(packet.ip_options) % 4)
    words = 5 + len(options) // 4
    offset = packet.fragment | packet.more << 13 | packet.dont_fragment << 14 | packet.reserved << 15
    head = struct.pack(
        "!BBHHHBBH",
        4 << 4 | words,
        packet.tos,
        words * 4 + len(inner),
        packet.number,
        offset,
        packet.ttl,
        packet.protocol,
        0,
    )
    head += source + destination + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + inner


def _ipv6(packet: Packet, source: bytes, destination: bytes, inner: bytes) -> bytes:
    headers = list(packet.extensions)
    if packet.fragment or packet.more or packet.atomic:
        body = struct.pack("!BHI", 0, packet.fragment << 3 | packet.reserved << 1 | packet.more, packet.number)
        headers.append((FRAGMENT, body))
    following = [kind for kind, _ in headers[1:]] + [packet.protocol]
    chain = b"".join(bytes([after]) + body for after, (_, body) in zip(following, headers, strict=False))
    first = headers[0][0] if headers else packet.protocol
    word = 6 << 28 | packet.tos << 20 | packet.flow_label
    length = len(chain) + len(inner)
    return struct.pack("!IHBB", word, length, first, packet.ttl) + source + destination + chain + inner


def options_header(size: int = 8, options: bytes = b"") -> bytes:
    """The body of a hop-by-hop or destination header of `size` bytes in all, filled up with padding."""
    room = size - 2 - len(options)
    padding = b"" if not room else b"\0" if room == 1 else bytes([1, room - 2]) + bytes(room - 2)
    return bytes([size // 8 - 1]) + options + padding


def routing_header(
    kind: int = 0, left: int = 0, addresses: tuple[bytes, ...] = (), reserved: bytes = bytes(4)
) -> bytes:
    """The body of a routing header: RFC 2460 4.4 for kind 0, also the shape of kinds 2 and 4."""
    return struct.pack("!BBB", len(addresses) * 2, kind, left) + bytes(4) + b"".join(addresses)


def authentication_header(spi: int, family: Family, *, reserved: int = 0) -> bytes:
    """The body of an authentication header with a value of 12 bytes."""
    size = 24  # a multiple of eight bytes, as IPv6 wants them
    return struct.pack("!BHII", size // 4 - 2, reserved, spi, 1) + bytes(size - 12)


def _transport(packet: Packet, source: bytes, destination: bytes) -> bytes:
    pseudo = source + destination
    sport, dport = packet.sport or 0, packet.dport or 0
    data = packet.payload
    if packet.protocol == TCP:
        options = packet.tcp_options + bytes(-len(packet.tcp_options) % 4)
        offset = (5 + len(options) // 4) << 12 | (packet.tcp_reserved & 0xF) << 8
        head = struct.pack(
            "!HHIIHHHH", sport, dport, packet.sequence, packet.acknowledged, offset | packet.flags, 8192, 0, 0
        )
        return _summed(head + options + data, 16, pseudo, TCP)
    if packet.protocol == UDP:
        return _summed(struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, 6, pseudo, UDP) or b""
    if packet.protocol == UDPLITE:
        return _summed(struct.pack("!HHHH", sport, dport, 0, 0) + data, 6, pseudo, UDPLITE)
    if packet.protocol == ICMP and packet.family is Family.IPV4:
        whole = struct.pack("!BBHHH", packet.icmp_type, packet.icmp_code, 0, packet.identifier or 0, 1) + data
        return whole[:2] + struct.pack("!H", checksum(whole)) + whole[4:]
    if packet.protocol == ICMPV6 and packet.family is Family.IPV6:
        whole = struct.pack("!BBHHH", packet.icmp_type, packet.icmp_code, 0, packet.identifier or 0, 1) + data
        return _summed(whole, 2, pseudo, ICMPV6)
    if packet.protocol == SCTP:
        chunks = packet.chunks if packet.chunks is not None else struct.pack("!BBHIHHII", 1, 0, 20, 1, 9, 1, 1, 1)
        head = struct.pack("!HHI", sport, dport, 0 if chunks[:1] == b"\1" else 1)
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunks)) + chunks
    if packet.protocol == DCCP:
        return _dccp(packet, pseudo, sport, dport)
    if packet.protocol == ESP:
        return struct.pack("!II", packet.spi, 1) + bytes(16)
    if packet.protocol == AH:
        return bytes([NO_NEXT]) + authentication_header(packet.spi, packet.family)
    if packet.protocol == IPCOMP:
        return struct.pack("!BBH", UDP, 0, packet.spi & 0xFFFF) + data
    if packet.protocol == GRE:
        return struct.pack("!HH", 0, 0x88B5) + data  # a type for experiments
    return data


def _dccp(packet: Packet, pseudo: bytes, sport: int, dport: int) -> bytes:
    options = packet.dccp_options + bytes(-len(packet.dccp_options) % 4)
    length = _DCCP_LENGTHS.get(packet.dccp_type, 24)
    kind = packet.dccp_type << 1 | 1  # with sequence numbers of 48 bits
    head = struct.pack("!HHBBHBBHI", sport, dport, (length + len(options)) // 4, 0, 0, kind, 0, 0, 1)
    whole = head + bytes(length - 16) + options
    return _summed(whole, 6, pseudo, DCCP)


def _summed(data: bytes, at: int, pseudo: bytes, protocol: int) -> bytes:
    total = checksum(pseudo + struct.pack("!IHBB", len(data), 0, 0, protocol) + data) or 0xFFFF
    return data[:at] + struct.pack("!H", total) + data[at + 2 :]
