"""Connection states, as -m conntrack and -m state have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.parts import Part

_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
_STATUS = {"SNAT": "snat", "DNAT": "dnat"}


def listed(value: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names that a list with commas has, in full: libxtables takes any beginning of one, in any case."""
    found = []
    for name in value.split(","):
        full = next((each for each in known if name and each.startswith(name.upper())), None)
        if full is None:
            raise Lost(f"there is no state {name!r}")
        found.append(full)
    return tuple(dict.fromkeys(found))


def states_of(value: str) -> tuple[str, ...]:
    """The states that `value` lists, as nft names them; without SNAT and DNAT."""
    return tuple(name.lower() for name in listed(value, (*_STATES, *_STATUS)) if name in _STATES)


def state_parts(value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether the packet has one of the states `value` lists; SNAT and DNAT are bits of the connection's status.

    A packet without an entry has the state INVALID, or UNTRACKED (conntrack_mt() in xt_conntrack.c; nft_ct.c alike).
    """
    names = listed(value, (*_STATES, *_STATUS))
    states = states_of(value)
    ways = [(Test("ct state", states),)] if states else []
    bits = [_STATUS[name] for name in names if name in _STATUS]
    if len(bits) > 1:
        ways.append((Test(f"ct status & ({'|'.join(bits)})", ("0",), negated=True),))
    elif bits:
        ways.append((Test(f"ct status & {bits[0]}", (bits[0],)),))
    if len(ways) == 1 and states:
        return (Test("ct state", states, negated),)
    return (NoneOf(tuple(ways)) if negated else AnyOf(tuple(ways)),)
