"""Protocols and ports: -p, --sport, --dport, multiport."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.fields.choices import Choices, around, each, generates
from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

PROTOCOLS = {
    "icmp": wire.ICMP,
    "tcp": wire.TCP,
    "udp": wire.UDP,
    "dccp": wire.DCCP,
    "gre": wire.GRE,
    "esp": wire.ESP,
    "ah": wire.AH,
    "ipv6-icmp": wire.ICMPV6,
    "icmpv6": wire.ICMPV6,
    "ipv6-auth": wire.AH,
    "ipv6-crypt": wire.ESP,
    "sctp": wire.SCTP,
    "udplite": wire.UDPLITE,
    "ipcomp": wire.IPCOMP,
    "mobility-header": wire.MOBILITY,
}


def protocol_number(text: str) -> int:
    """The number of a protocol; 0 for all of them."""
    name = text.lower()
    if name in ("all", "ip"):
        return 0
    return PROTOCOLS[name] if name in PROTOCOLS else int(name) if name.isdigit() else socket.getprotobyname(name)


def port_number(text: str) -> int:
    """The number of a port or the service of this name."""
    return int(text) if text.isdigit() else socket.getservbyname(text)


@generates("-p")
def protocol(word: Word, setting: Setting) -> Choices:
    """The protocol, and some others."""
    number = protocol_number(word.value)
    icmp = wire.ICMP if setting.family is Family.IPV4 else wire.ICMPV6
    kinds = (wire.UDP, wire.TCP, icmp, wire.SCTP, wire.ESP, wire.GRE, wire.UDPLITE, 99)
    if number == 0:
        return Choices(tuple({"protocol": kind} for kind in kinds))
    fails = tuple(_of(kind, setting) for kind in kinds if kind != number)
    return Choices((_of(number, setting),), fails)


def _of(number: int, setting: Setting) -> dict[str, object]:
    fields: dict[str, object] = {"protocol": number}
    if number == wire.ICMPV6 and setting.family is Family.IPV6:
        fields["icmp_type"] = 128
    return fields


def ranges(text: str) -> list[tuple[int, int]]:
    """`22,80:90` as pairs."""
    found = []
    for part in text.split(","):
        low, is_range, high = part.partition(":")
        first = port_number(low) if low else 0
        found.append((first, first if not is_range else port_number(high) if high else 65535))
    return found


@generates("--sport", "--sports", "--dport", "--dports")
def one_side(word: Word, setting: Setting) -> Choices:
    """Ends, middles and neighbours of all ranges on one side; the other side has such ports where this fails."""
    field, other = ("sport", "dport") if word.name.startswith("--sport") else ("dport", "sport")
    inside, outside = _values(word.value)
    found = each(field, (inside, outside))
    swapped = tuple({field: bad, other: good} for bad, good in zip(outside[:1], inside[:1], strict=False))
    return Choices(found.holds, found.fails + swapped)


@generates("--ports", match="multiport")
def either_side(word: Word, setting: Setting) -> Choices:
    """The ports on the one side, on the other, on both, on neither."""
    inside, outside = _values(word.value)
    plain = outside[0] if outside else 1
    holds = [{"dport": value, "sport": plain} for value in inside]
    holds += [{"sport": value, "dport": plain} for value in inside]
    holds.append({"sport": inside[0], "dport": inside[0]})
    fails = [{"sport": a, "dport": b} for a, b in zip(outside, outside[1:] + outside[:1], strict=True)]
    return Choices(tuple(holds), tuple(fails))


def _values(text: str) -> tuple[list[int], list[int]]:
    pairs = ranges(text)

    def is_in(value: int) -> bool:
        return any(low <= value <= high for low, high in pairs)

    inside: list[int] = []
    outside: list[int] = []
    for low, high in pairs:
        good, bad = around(low, high, 65535)
        inside += good
        outside += [value for value in bad if not is_in(value)]
    outside += [value for value in (40000, 1, 443) if not is_in(value)]
    return list(dict.fromkeys(inside)), list(dict.fromkeys(outside))
