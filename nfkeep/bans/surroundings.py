"""What a health check of ban lists has to know of a host: the lists, and what else may get in their way.

It only looks, at the network namespace of the calling thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import attrs

from nfkeep.bans.look import Look, look_at_all
from nfkeep.model import Family
from nfkeep.xtables import recent
from nfkeep.xtables.entry import decode
from nfkeep.xtables.tables import TableHandle, in_use

_AS_BUILT = recent.Capacity(100, None)


@attrs.frozen(slots=True)
class Host:
    """What the checks are about.

    `recent_lists`: how many addresses are in each list of xt_recent, of whomever; `capacity`: the room in each. `fed`:
    ban lists among them that a rule of somebody else puts addresses into, and where that rule is.
    """

    looks: tuple[Look, ...] = ()
    recent_lists: Mapping[str, int] = attrs.field(factory=dict)
    capacity: recent.Capacity = _AS_BUILT
    fed: Mapping[str, str] = attrs.field(factory=dict)


def seen() -> Host:
    """How this host is now. Raises PermissionDeniedError, UnsupportedError, CommitError."""
    looks = look_at_all()
    return Host(
        looks=looks,
        recent_lists={name: recent.entries(name) or 0 for name in _recent_lists()},
        capacity=recent.capacity(),
        fed=_fed({each.listed.name for each in looks if each.listed.backend == "recent"}),
    )


def _recent_lists() -> list[str]:
    try:
        return os.listdir(recent.DIRECTORY)
    except FileNotFoundError:  # nothing here uses recent
        return []


def _fed(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for family in Family:
        for table in in_use(family):
            with TableHandle(table, family) as handle:
                chains = handle.chains()
                for chain, position, rule in handle.scan((recent.NAME,)):
                    for match in decode(rule).matches:
                        if match.name == recent.NAME and recent.writes(match) and recent.list_name(match) in names:
                            found[recent.list_name(match)] = f"{family} {table} {chains[chain]} rule {position}"
    return found
