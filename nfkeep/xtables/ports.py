"""The port conditions of the tcp, udp and multiport matches, decoded.

Layouts: struct xt_tcp, xt_udp (linux/netfilter/xt_tcpudp.h), xt_multiport_v1 (xt_multiport.h).
"""

from __future__ import annotations

import struct

import attrs

from nfkeep.xtables.entry import Extension

Ranges = tuple[tuple[int, int], ...]
_ANY = ((0, 0xFFFF),)


@attrs.frozen(slots=True)
class Ports:
    """What one match asks of a packet's ports; an empty tuple asks nothing. Ranges are inclusive."""

    source: Ranges = ()
    source_inverted: bool = False
    destination: Ranges = ()
    destination_inverted: bool = False
    either: Ranges = ()
    either_inverted: bool = False


def decode(match: Extension) -> Ports | None:
    """The port conditions of a match, or None if it is not one that has any."""
    if match.name in ("tcp", "udp") and match.revision == 0:
        low, high, to_low, to_high = struct.unpack_from("=4H", match.data)
        inverted = match.data[11] if match.name == "tcp" else match.data[8]
        return Ports(
            _unless_any(low, high, bool(inverted & 1)),
            bool(inverted & 1),
            _unless_any(to_low, to_high, bool(inverted & 2)),
            bool(inverted & 2),
        )
    if match.name == "multiport" and match.revision == 1:
        return _multiport(match.data)
    return None


def _unless_any(low: int, high: int, inverted: bool) -> Ranges:
    # A range that ends before it begins matches nothing; saying "any" of it errs on the safe side.
    return () if low > high or (((low, high),) == _ANY and not inverted) else ((low, high),)


def _multiport(data: bytes) -> Ports:
    which, count = data[0], data[1]
    ports = struct.unpack_from("=15H", data, 2)
    starts_range, inverted = data[32:47], bool(data[47])
    ranges, i = [], 0
    while i < min(count, 15):
        if starts_range[i] and i + 1 < count:
            ranges.append((ports[i], ports[i + 1]))
            i += 2
        else:
            ranges.append((ports[i], ports[i]))
            i += 1
    found = tuple((low, high) for low, high in ranges if low <= high)
    if which == 0:
        return Ports(source=found, source_inverted=inverted)
    if which == 1:
        return Ports(destination=found, destination_inverted=inverted)
    return Ports(either=found, either_inverted=inverted)
