"""Sets that many rules have in common: declared once with a name, where nft would make a nameless one for each rule."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.migrate.context import Objects
    from nfkeep.migrate.layout import Chain, Line
    from nfkeep.migrate.parts import Simple

FEWEST_USERS = 4
"""So many rules with the same set make it worth a name."""

_TYPED = frozenset(
    {
        *(f"{ip} {field}" for ip in ("ip", "ip6") for field in ("saddr", "daddr")),
        *(f"{protocol} {field}" for protocol in ("tcp", "udp", "sctp", "dccp", "th") for field in ("sport", "dport")),
    }
)


def with_shared_sets(chains: Sequence[Chain], objects: Objects) -> Iterator[Chain]:
    """The same chains, with what many of their rules look up in sets of the table."""
    users: collections.Counter[tuple[str, tuple[str, ...]]] = collections.Counter()
    for chain in chains:
        for line in chain.lines:
            for part in line.parts:
                if isinstance(part, Test) and len(part.values) > 1 and part.left in _TYPED:
                    users[part.left, part.values] += 1
    sets = {key: _declared(*key, objects) for key, number in users.items() if number >= FEWEST_USERS}
    for chain in chains:
        yield attrs.evolve(chain, lines=[_line(line, sets) for line in chain.lines]) if sets else chain


def _declared(left: str, values: tuple[str, ...], objects: Objects) -> str:
    ranges = any("-" in value or "/" in value for value in values)
    body = (f"typeof {left}", *(["flags interval", "auto-merge"] if ranges else []), "elements = {")
    name = objects.fresh(left.replace(" ", "-"))
    return objects.declare("set", name, (*body, *(f"\t{value}," for value in values), "}"))


def _line(line: Line, sets: dict[tuple[str, tuple[str, ...]], str]) -> Line:
    return attrs.evolve(line, parts=tuple(_part(part, sets) for part in line.parts))


def _part(part: Simple, sets: dict[tuple[str, tuple[str, ...]], str]) -> Simple:
    if isinstance(part, Test) and (name := sets.get((part.left, part.values))) is not None:
        return attrs.evolve(part, values=(f"@{name}",))
    return part
