"""What a host did with one packet, in a form in which two hosts can be compared."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.observed import parse, tell
from nfkeep.migrate.verify.readable import transport_of
from nfkeep.model import Hook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.migrate.verify import wire
    from nfkeep.migrate.verify.host import Host
from nfkeep.migrate.verify.observed import Seen


@attrs.frozen(slots=True)
class Outcome:
    """Everything that was seen, in order; empty if the packet was dropped before anything could be seen of it.

    Two outcomes are equal if the bytes are, but for what a host invents: the numbers of the packets that it makes.
    """

    seen: tuple[Seen, ...] = attrs.field(eq=lambda seen: tuple(map(comparable, seen)))
    names: dict[int, str] = attrs.field(eq=False, repr=False)

    def __str__(self) -> str:
        final = [each for each in self.seen if each.hook is not Hook.PREROUTING or each.prefix]
        if final:
            return "; ".join(tell(each, self.names) for each in final)
        return f"dropped ({tell(self.seen[-1], self.names)})" if self.seen else "dropped"


def outcome(host: Host, logged: Iterable[bytes]) -> Outcome:
    """The outcome for what was logged on a host."""
    return Outcome(tuple(parse(logged)), host.names)


def comparable(seen: Seen) -> tuple[object, ...]:
    """What has to be the same on both hosts."""
    return seen.hook, seen.enters, seen.leaves, _without_number(seen.data), *_beside(seen)


def _beside(seen: Seen) -> tuple[object, ...]:
    return seen.mark, seen.connmark, seen.conditions, seen.prefix, seen.group


def _without_number(data: bytes) -> bytes:
    """The packet without the number that its maker chose, and the checksum with it; a fragment keeps its own.

    An ICMP error holds the packet that it is about, perhaps one that the host has made itself.
    """
    if len(data) < 20 or data[0] >> 4 != 4 or data[6] & 0x3F or data[7]:
        return data
    body = 4 * (data[0] & 15)
    head, payload = data[:4] + b"\0\0" + data[6:10] + b"\0\0" + data[12:body], data[body:]
    if data[9] == wire.ICMP and payload[:1] and payload[0] in _ICMP_ERRORS:
        payload = payload[:2] + b"\0\0" + payload[4:8] + _without_number(payload[8:])
    return head + payload


_ICMP_ERRORS = (3, 5, 11, 12)


@attrs.frozen(slots=True)
class Chosen:
    """The ports that NAT may choose: those of `ranges`, as the rules say; any source port if they say `random`.

    Without that, a source port is also changed where two connections would become the same: to any port.
    """

    ranges: tuple[tuple[int, int], ...]
    random: bool

    def kind(self, port: int, own: int | None) -> object:
        """What has to be the same on both hosts instead of the port; `own` is the sender's, None for destinations."""
        where = tuple(low <= port <= high for low, high in self.ranges)
        if any(where):
            return where
        return port if own is None or (port == own and not self.random) else "chosen"


def same_but_for_ports(one: Outcome, other: Outcome, chosen: Chosen, own: int) -> bool:
    """Whether two outcomes differ only in ports that NAT chose; `own` is the source port that was sent."""
    if len(one.seen) != len(other.seen):
        return False
    pairs = zip(one.seen, other.seen, strict=True)
    return all(
        (a.hook, a.enters, a.leaves, *_beside(a)) == (b.hook, b.enters, b.leaves, *_beside(b))
        and _without_ports(a.data, chosen, own) == _without_ports(b.data, chosen, own)
        for a, b in pairs
    )


_CHECKSUMS = {wire.TCP: 16, wire.UDP: 6, wire.DCCP: 6, wire.UDPLITE: 6, wire.ICMP: 2, wire.ICMPV6: 2, wire.SCTP: 8}


def _without_ports(data: bytes, chosen: Chosen | None, own: int) -> object:
    """With None whatever the ports are: in an error they are the other end's, before or after NAT."""
    data = _without_number(data)
    protocol, start = transport_of(data)
    if protocol not in _CHECKSUMS or len(data) < start + 8:
        return data
    if protocol in (wire.ICMP, wire.ICMPV6):  # an identifier is changed as a port is; an error holds a packet
        kind = data[start]
        if kind in (0, 8, 128, 129):
            return data[: start + 2] + data[start + 6 :]
        return data[: start + 2], _without_ports(data[start + 8 :], None, own)
    ports = struct.unpack_from("!HH", data, start)
    kinds = (chosen.kind(ports[0], own), chosen.kind(ports[1], None)) if chosen else ()
    at = start + _CHECKSUMS[protocol]
    size = 4 if protocol == wire.SCTP else 2
    return kinds, data[:start], data[start + 4 : at], data[at + size :]
