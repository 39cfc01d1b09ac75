"""Connection states, as -m conntrack and -m state have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part

_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
_STATUS = {"SNAT": "snat", "DNAT": "dnat"}


def state_parts(value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether the packet has one of the states `value` lists; SNAT and DNAT are bits of the connection's status.

    A packet without an entry has the state INVALID, or UNTRACKED (conntrack_mt() in xt_conntrack.c; nft_ct.c alike).
    """
    names = value.split(",")
    if unknown := [name for name in names if name not in _STATES and name not in _STATUS]:
        raise Lost(f"there is no state {unknown[0]}")
    states = tuple(name.lower() for name in names if name in _STATES)
    ways = [(Test("ct state", states),)] if states else []
    ways += [(Test(f"ct status & {_STATUS[name]}", (_STATUS[name],)),) for name in names if name in _STATUS]
    if len(ways) == 1 and states:
        return (Test("ct state", states, negated),)
    return (NoneOf(tuple(ways)) if negated else AnyOf(tuple(ways)),)
