"""`-m recent`: addresses seen lately (recent_mt() in xt_recent.c), as sets: see nfkeep.migrate.recent."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, NoneOf
from nfkeep.migrate.recent import DEFAULT_NAME, SIZE, SIZE_OF_SLOT, Asked, RecentList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--set": 0, "--rcheck": 0, "--update": 0, "--remove": 0, "--seconds": 1, "--reap": 0, "--hitcount": 1, "--rttl": 0,
    "--name": 1, "--mask": 1, "--rsource": 0, "--rdest": 0,
}  # fmt: skip
_TICKS = 1 << 32
_HZ = 1000


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """The test for what the rule asks, then what it does to the list."""
    asked = Asked.of(match)
    if match.option("--rttl"):
        raise Lost("nft cannot compare a packet's TTL with the last one seen", "leave --rttl out of the rule")
    uses = context.survey.once(("recent", asked.name), lambda: _uses(asked.name, context))
    key = f"{context.ip} {'daddr' if match.option('--rdest') else 'saddr'}"
    if asked.mask:
        key = f"{key} & {asked.mask}"
    sets = RecentList.of(asked.name, key, uses or [asked])
    if not sets.known(context):
        _admit_size(match, sets, context)
    sets.declare(context)
    _admit(match, asked, uses, context)
    return _parts(asked, sets)


def _uses(name: str, context: Context) -> list[Asked]:
    """All matches on the list but those that are lost: that is said where their rules are translated."""
    found = []
    for match in context.survey.matches("recent", "--name", name, DEFAULT_NAME):
        with contextlib.suppress(Lost, ValueError):
            found.append(Asked.of(match))
    return found


def _parts(asked: Asked, sets: RecentList) -> tuple[Part, ...]:
    if asked.action == "--set":
        return (*sets.stamp(), *([NEVER] if asked.negated else []))
    if asked.action == "--remove":
        removal = sets.remove()
        return (NoneOf((removal,)),) if asked.negated else removal
    test = sets.test(asked.age)
    found: tuple[Part, ...] = (NoneOf((test,)),) if asked.negated else test
    if asked.action == "--rcheck":
        return found
    return (*found, *sets.stamp(known_only=asked.negated))


def _admit_size(match: Extension, sets: RecentList, context: Context) -> None:
    hits = any(age.hits > 1 for age in sets.ages)
    size = SIZE_OF_SLOT if hits else SIZE
    reason = (
        f"the list {sets.name} has room for {size} addresses and then takes no more; iptables' list forgets the oldest "
        "beyond 100 (ip_list_tot of xt_recent)"
    )
    if any(age.hits > 1 and age.seconds for age in sets.ages):
        reason += "; an address with all the hits in a quarter of a second is known as long as that longer"
    if sets.keeps_addresses:
        reason += "; one that is removed more than ten times a second may not be added again in that second"
    context.approximate(match, reason)


def _admit(match: Extension, asked: Asked, uses: Sequence[Asked], context: Context) -> None:
    """Say where the rule differs a little."""
    if asked.age.seconds * _HZ >= _TICKS:
        context.approximate(
            match, f"{asked.age.seconds} seconds overflow the kernel's count of ticks, but not that of nft"
        )
    younger = asked.age.seconds
    outlives = any(
        use.action == "--remove" or (use.checks and (not use.age.seconds or use.age.seconds > younger)) for use in uses
    )
    if asked.reap and outlives:
        context.approximate(match, "--reap does not make the list forget what other rules still ask for")
