"""Connection states, as -m conntrack and -m state have them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part

_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
_STATUS = {"SNAT": "snat", "DNAT": "dnat"}


@functools.lru_cache(maxsize=256)
def listed(value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names that a list with commas has, in full: libxtables takes any beginning of one, in any case."""
    found = []
    for name in value.split(","):
        full = next((each for each in known if name and each.startswith(name.upper())), None)
        if full is None:
            raise Lost(f"there is no state {name!r}")
        found.append(full)
    return tuple(dict.fromkeys(found))


@functools.lru_cache(maxsize=256)
def states_of(value: str) -> tuple[str, ...]:
    """The states that `value` lists, as nft names them; without SNAT and DNAT."""
    return tuple(name.lower() for name in listed(value, (*_STATES, *_STATUS)) if name in _STATES)


@functools.lru_cache(maxsize=256)
def state_tests(value: str) -> tuple[Test, ...]:
    """Tests of which one has to hold. SNAT and DNAT are bits of the connection's status."""
    names = listed(value, (*_STATES, *_STATUS))
    states = tuple(name.lower() for name in names if name in _STATES)
    bits = [_STATUS[name] for name in names if name in _STATUS]
    tests = [Test("ct state", states)] if states else []
    if len(bits) > 1:
        tests.append(Test(f"ct status & ({'|'.join(bits)})", ("0",), negated=True))
    elif bits:
        tests.append(Test(f"ct status & {bits[0]}", (bits[0],)))
    return tuple(tests)


@functools.lru_cache(maxsize=256)
def state_parts(value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether the packet has one of the states `value` lists.

    A packet without an entry has the state INVALID, or UNTRACKED (conntrack_mt() in xt_conntrack.c; nft_ct.c alike).
    """
    tests = state_tests(value)
    if len(tests) == 1 and tests[0].left == "ct state":
        return (Test("ct state", tests[0].values, negated),)
    ways = tuple((test,) for test in tests)
    return (NoneOf(ways) if negated else AnyOf(ways),)
