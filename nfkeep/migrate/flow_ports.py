"""Ports of connections: what an entry of the connection tracking has in the place of ports.

nft compares them only where it knows the protocol. The protocols with something in their place each get a way; with all
others it is 0 (nf_ct_get_tuple() in nf_conntrack_core.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.entries import HAS_ENTRY, TRACKED_NEVER
from nfkeep.migrate.head import protocol_name
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Option

_MOST = 65535
_FIELDS = {
    "--ctorigsrcport": "ct original proto-src",
    "--ctorigdstport": "ct original proto-dst",
    "--ctreplsrcport": "ct reply proto-src",
    "--ctrepldstport": "ct reply proto-dst",
}
_NAMES = {"1": "icmp", "6": "tcp", "17": "udp", "33": "dccp", "58": "icmpv6", "132": "sctp", "136": "udplite"}
_WITH_PORTS = ("tcp", "udp", "udplite", "sctp", "dccp")
_GRE = "47"


@attrs.frozen(slots=True)
class _Ports:
    field: str
    low: int
    high: int
    negated: bool

    def always(self) -> bool:
        return (self.negated and self.low > self.high) or (not self.negated and (self.low, self.high) == (0, _MOST))

    def never(self) -> bool:
        return (not self.negated and self.low > self.high) or (self.negated and (self.low, self.high) == (0, _MOST))

    def of_zero(self) -> bool:
        return (self.low <= 0 <= self.high) != self.negated

    def test(self) -> Test:
        text = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return Test(self.field, (text,), self.negated)


def flow_protocol(value: str) -> str:
    """The protocol of an entry, by its name where nft's table of protocols has one."""
    name = protocol_name(value)
    return _NAMES.get(name, name)


def port_ways(options: Sequence[Option], protocol: Option | None, context: Context) -> tuple[tuple[Simple, ...], ...]:
    """The ways in which the ports of an entry are as these options want them, and its protocol as `protocol` does."""
    asked = [_Ports(_FIELDS[each.name], *number_range(each.value, _MOST), each.negated) for each in options]
    if any(each.never() for each in asked):
        return (TRACKED_NEVER,)
    asked = [each for each in asked if not each.always()]
    known = _known(protocol, context)
    if not asked:
        return ((Test("ct protocol", (known,)) if known else HAS_ENTRY,),)
    with_ports = (*_WITH_PORTS, "icmpv6" if context.v6 else "icmp")
    others_too = all(each.of_zero() for each in asked)
    if known == _GRE:
        raise Lost("nft cannot compare the call ids of GRE", "PPTP's connections are RELATED; ask for that")
    if known is not None and known not in with_ports:
        return ((Test("ct protocol", (known,)),),) if others_too else (TRACKED_NEVER,)
    protocols = with_ports if known is None else (known,)
    ways: list[tuple[Simple, ...]] = [
        (Test("ct protocol", (each,)), *(ports.test() for ports in asked)) for each in protocols
    ]
    if known is None:
        context.approximate(
            "its ports",
            "PPTP's tunnels (GRE) have call ids in their place, which nft takes for 0",
            "name the protocol with --ctproto",
        )
        if others_too:
            ways.append((Test("ct protocol", with_ports, negated=True),))
    return tuple(ways)


def _known(protocol: Option | None, context: Context) -> str | None:
    """The only protocol that it can be: a packet's own, but for ICMP's errors, is that of its entry."""
    if protocol is not None and not protocol.negated:
        return flow_protocol(protocol.value)
    if context.protocol in (None, "all", "0"):
        return None
    name = flow_protocol(context.protocol or "")
    return None if name.startswith("icmp") else name
