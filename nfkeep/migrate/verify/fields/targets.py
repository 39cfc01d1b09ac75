"""Packets that a target treats in a way of its own: what it changes is there already, or is at an end of its range."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nfkeep.migrate.verify import wire
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.verify.fields.choices import Fields
    from nfkeep.migrate.verify.words import Words

_MARKS = (0xFFFFFFFF, 0x1, 0x80000000, 0xA5A5A5A5)
_STATES = ("established", "reply", "related")


def fields_for(rule: Words, family: Family) -> Iterator[Fields]:
    """Fields to change in a packet that comes to the rule."""
    target = rule.target
    if target in ("MARK", "CONNMARK", "HMARK", "CONNSECMARK", "TPROXY", "CT"):
        yield from ({"mark": mark} for mark in _MARKS)
        yield from ({"mark": _MARKS[3], "state": state} for state in _STATES)
    elif target in ("TTL", "HL"):
        yield from ({"ttl": ttl} for ttl in (255, 254, 2, 3, 128))
    elif target in ("TOS", "DSCP", "ECN"):
        yield from ({"tos": tos} for tos in (0xFF, 1, 2, 3, 0x10, 0xB8))
        yield {"flags": wire.SYN | wire.ECE | wire.CWR}
    elif target in ("TCPMSS", "TCPOPTSTRIP"):
        sizes = (b"", *(struct.pack("!BBH", 2, 4, size) for size in (1, 536, 1000, 1460, 9000)))
        options = (*sizes, b"\2\4\5\xb4\4\2\x08\n\0\0\0\1\0\0\0\0\1\3\3\7", b"\1\1\4\2", b"\x13\x12" + bytes(16))
        yield from ({"tcp_options": each} for each in options)
    elif target in ("SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP"):
        yield from _translated(rule)
    elif target == "REJECT":
        yield from ({"flags": flags} for flags in (wire.ACK, wire.RST, wire.SYN | wire.FIN))
        yield {"icmp_type": 3 if family is Family.IPV4 else 1, "protocol": _ICMP[family]}
        yield {"payload": bytes(1200)}


_ICMP = {Family.IPV4: wire.ICMP, Family.IPV6: wire.ICMPV6}


def _translated(rule: Words) -> Iterator[Fields]:
    """Source ports of each class that the kernel keeps apart (below 512, below 1024), and of the rule's own range."""
    yield from ({"sport": port} for port in (80, 600, 40000))
    for option in rule.options:
        if option.name == "--to-ports":
            numbers = [text for text in option.value.split("-") if text.isdigit()] or ["0"]
            low, high = int(numbers[0]), int(numbers[-1])
            yield from ({name: port} for name in ("sport", "dport") for port in (low, high) if port)
    yield from ({"state": state} for state in _STATES)
