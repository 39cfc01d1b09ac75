"""The parts of ipset's elements as numbers, and as nft writes them: addresses, protocols with ports, marks, MACs."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from nfkeep.migrate.head import protocol_name
from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_PORTS = ("tcp", "udp", "sctp", "udplite")
ICMP = ("icmp", "icmpv6")
_MOST_AT_ONCE = 65536
_FAMILY = {False: socket.AF_INET, True: socket.AF_INET6}

# ipset's names of ICMP's types and codes (lib/icmp.c, lib/icmpv6.c of ipset).
_ICMP = {
    "echo-reply": (0, 0), "pong": (0, 0), "network-unreachable": (3, 0), "host-unreachable": (3, 1),
    "protocol-unreachable": (3, 2), "port-unreachable": (3, 3), "fragmentation-needed": (3, 4),
    "source-route-failed": (3, 5), "network-unknown": (3, 6), "host-unknown": (3, 7), "network-prohibited": (3, 9),
    "host-prohibited": (3, 10), "TOS-network-unreachable": (3, 11), "TOS-host-unreachable": (3, 12),
    "communication-prohibited": (3, 13), "host-precedence-violation": (3, 14), "precedence-cutoff": (3, 15),
    "source-quench": (4, 0), "network-redirect": (5, 0), "host-redirect": (5, 1), "TOS-network-redirect": (5, 2),
    "TOS-host-redirect": (5, 3), "echo-request": (8, 0), "ping": (8, 0), "router-advertisement": (9, 0),
    "router-solicitation": (10, 0), "ttl-zero-during-transit": (11, 0), "ttl-zero-during-reassembly": (11, 1),
    "ip-header-bad": (12, 0), "required-option-missing": (12, 1), "timestamp-request": (13, 0),
    "timestamp-reply": (14, 0), "address-mask-request": (17, 0), "address-mask-reply": (18, 0),
}  # fmt: skip
_ICMPV6 = {
    "no-route": (1, 0), "communication-prohibited": (1, 1), "address-unreachable": (1, 3), "port-unreachable": (1, 4),
    "packet-too-big": (2, 0), "ttl-zero-during-transit": (3, 0), "ttl-zero-during-reassembly": (3, 1),
    "bad-header": (4, 0), "unknown-header-type": (4, 1), "unknown-option": (4, 2), "echo-request": (128, 0),
    "ping": (128, 0), "echo-reply": (129, 0), "pong": (129, 0), "router-solicitation": (133, 0),
    "router-advertisement": (134, 0), "neighbour-solicitation": (135, 0), "neigbour-solicitation": (135, 0),
    "neighbour-advertisement": (136, 0), "neigbour-advertisement": (136, 0), "redirect": (137, 0),
}  # fmt: skip


def networks(text: str, *, v6: bool) -> list[tuple[int, int, int]]:
    """`10.0.0.0/8`, an address, or a range, as first and last address and length of the prefix."""
    first, _, end = text.partition("-")
    if end:
        kind = ipaddress.IPv6Address if v6 else ipaddress.IPv4Address
        found = ipaddress.summarize_address_range(kind(_number(first, v6)), kind(_number(end, v6)))
        return [(int(each.network_address), int(each.broadcast_address), each.prefixlen) for each in found]
    address, _, given = first.partition("/")
    bits = 128 if v6 else 32
    length = int(given) if given else bits
    if not 0 <= length <= bits:
        raise Lost(f"{text} has a prefix longer than {bits}")
    rest = (1 << (bits - length)) - 1
    number = _number(address, v6) & ~rest
    return [(number, number | rest, length)]


def addresses(text: str, *, v6: bool, mask: int) -> Iterator[int]:
    """The same as single addresses, masked."""
    for first, last, _ in networks(text, v6=v6):
        if last - first >= _MOST_AT_ONCE:
            raise Lost(f"{text} is more than {_MOST_AT_ONCE} addresses")
        yield from dict.fromkeys(address & mask for address in range(first, last + 1))


def ports(text: str) -> Iterator[tuple[str, int]]:
    """`tcp:80`, `80-90` or `icmp:echo-request` as protocols of nft and numbers."""
    name, _, number = text.rpartition(":")
    protocol = protocol_name(name or "tcp")
    if protocol in ICMP:
        names = _ICMP if protocol == "icmp" else _ICMPV6
        kind, code = names[number] if number in names else map(int, number.split("/"))
        yield protocol, kind << 8 | code
        return
    first, _, last = number.partition("-")
    for port in range(int(first), int(last or first) + 1):
        yield protocol, port


def address_text(number: int, *, v6: bool) -> str:
    """An address as text."""
    return socket.inet_ntop(_FAMILY[v6], number.to_bytes(16 if v6 else 4, "big"))


def range_text(first: int, last: int, *, v6: bool) -> str:
    """A range as nft writes it: an address, a prefix or two ends."""
    size = last - first + 1
    if size == 1:
        return address_text(first, v6=v6)
    if size & (size - 1) == 0 and first % size == 0:
        return f"{address_text(first, v6=v6)}/{(128 if v6 else 32) - size.bit_length() + 1}"
    return f"{address_text(first, v6=v6)}-{address_text(last, v6=v6)}"


def _number(text: str, v6: bool) -> int:
    try:
        return int.from_bytes(socket.inet_pton(_FAMILY[v6], text), "big")
    except OSError:
        raise Lost(f"{text!r} is no address of {'IPv6' if v6 else 'IPv4'}") from None
