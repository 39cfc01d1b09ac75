"""Which packets reach a rule: every way from a base chain to it, as selectors over flows, always a superset.

Pure: works on observations only. A condition that is not understood is taken to hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from nfkeep.conntrack.select import Condition, Selector
from nfkeep.keep.observe import Found, Observation
from nfkeep.model import Hook
from nfkeep.xtables.entry import (
    INV_DESTINATION,
    INV_IN_INTERFACE,
    INV_OUT_INTERFACE,
    INV_PROTOCOL,
    INV_SOURCE,
    Entry,
)
from nfkeep.xtables.opening import Place, places
from nfkeep.xtables.ports import decode as decode_ports
from nfkeep.xtables.tables import TABLES

#: More ways than this to one rule are not told apart: the hook alone stands for all of them.
MOST_PATHS = 64

_HOOKS: Mapping[str, Hook] = MappingProxyType({hook.name: hook for hook in Hook})


class Reach:
    """The ways through one table, found once and asked for many rules."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._into: dict[str, list[Found]] = {}
        for each in observation.found:
            if each.entry.jump is not None:
                self._into.setdefault(each.entry.jump, []).append(each)
        self._known: dict[tuple[str, int], tuple[Selector, ...]] = {}

    def selectors(self, found: Found) -> tuple[Selector, ...]:
        """The opening packets (and, where `replies` says so, later ones) that can reach a rule.

        Empty if no opening packet can: the rule asks for something else, or no chain leads to it.
        """
        place = (found.chain, found.position)
        if place not in self._known:
            made = (_selector(self.observation, way) for way in self._ways(found))
            self._known[place] = tuple(selector for selector in made if selector is not None)
        return self._known[place]

    def _ways(self, found: Found) -> list[tuple[Found, ...]]:
        """The chains of jumps that end in `found`, each from a rule of a base chain on."""
        ways = list(itertools.islice(self._climb((found,), frozenset({found.chain})), MOST_PATHS + 1))
        if len(ways) <= MOST_PATHS:
            return ways
        return [(_bare(chain, found), found) for chain in self._base_chains(found.chain)]

    def _climb(self, way: tuple[Found, ...], seen: frozenset[str]) -> Iterator[tuple[Found, ...]]:
        chain = way[0].chain
        if chain in _HOOKS:
            yield way
            return
        for jump in self._into.get(chain, ()):
            if jump.chain not in seen:
                yield from self._climb((jump, *way), seen | {jump.chain})

    def _base_chains(self, chain: str) -> list[str]:
        """The base chains from which a chain is reached."""
        seen, open_ends = {chain}, [chain]
        while open_ends:
            callers = {jump.chain for jump in self._into.get(open_ends.pop(), ())} - seen
            seen |= callers
            open_ends += callers
        return [each for each in _HOOKS if each in seen]


def can_meet(one: Selector, other: Selector, *, same_destination: bool = True) -> bool:
    """Whether some packet could satisfy both; False only where their simple conditions exclude each other.

    Without `same_destination` one of them sees destinations that may since have been translated.
    """
    return not any(_exclude(left, right, same_destination) for left in one.conditions for right in other.conditions)


def conditions(entry: Entry) -> tuple[Condition, ...]:
    """The simple conditions of one rule: its head, then one for each match on ports."""
    head = Condition(
        protocol=entry.protocol,
        protocol_inverted=bool(entry.inverted & INV_PROTOCOL),
        source=_unless_any(entry.source, entry.source_mask),
        source_mask=_unless_any(entry.source_mask, entry.source_mask),
        source_inverted=bool(entry.inverted & INV_SOURCE),
        destination=_unless_any(entry.destination, entry.destination_mask),
        destination_mask=_unless_any(entry.destination_mask, entry.destination_mask),
        destination_inverted=bool(entry.inverted & INV_DESTINATION),
        in_interface=_unless_any(entry.in_interface, entry.in_interface_mask),
        in_interface_mask=_unless_any(entry.in_interface_mask, entry.in_interface_mask),
        in_interface_inverted=bool(entry.inverted & INV_IN_INTERFACE),
        out_interface=_unless_any(entry.out_interface, entry.out_interface_mask),
        out_interface_mask=_unless_any(entry.out_interface_mask, entry.out_interface_mask),
        out_interface_inverted=bool(entry.inverted & INV_OUT_INTERFACE),
    )
    ported = (ports for match in entry.matches if (ports := decode_ports(match)) is not None)
    return (
        head,
        *(
            Condition(
                source_ports=ports.source,
                source_ports_inverted=ports.source_inverted,
                destination_ports=ports.destination,
                destination_ports_inverted=ports.destination_inverted,
                either_ports=ports.either,
                either_ports_inverted=ports.either_inverted,
            )
            for ports in ported
        ),
    )


def _bare(chain: str, found: Found) -> Found:
    """A rule of a base chain that stands for all ways from there: without any condition."""
    size = len(found.entry.source)
    nothing = bytes(16)
    entry = Entry(
        found.entry.family,
        *(bytes(size),) * 4,
        *(nothing,) * 4,
        protocol=0,
        inverted=0,
        goto=False,
        matches=(),
        verdict=found.entry.verdict,
        target=found.entry.target,
    )
    return Found(chain, 0, found.rule, entry)


def _selector(observation: Observation, way: tuple[Found, ...]) -> Selector | None:
    place = Place.OPENING | Place.LATER
    for each in way:
        place &= places(each.entry)
    if Place.OPENING not in place:
        return None
    hook = _HOOKS[way[0].chain]
    return Selector(
        hook=hook,
        conditions=tuple(condition for each in way for condition in conditions(each.entry)),
        destination_translated=hook in TABLES[observation.table].after_destination_nat,
        replies=Place.LATER in place,
    )


def _unless_any(value: bytes, mask: bytes) -> bytes:
    return value if any(mask) else b""


def _exclude(left: Condition, right: Condition, same_destination: bool) -> bool:
    if _protocols_exclude(left, right):
        return True
    if _addresses_exclude(
        (left.source, left.source_mask, left.source_inverted),
        (right.source, right.source_mask, right.source_inverted),
    ) or _ports_exclude(
        (left.source_ports, left.source_ports_inverted), (right.source_ports, right.source_ports_inverted)
    ):
        return True
    return same_destination and (
        _addresses_exclude(
            (left.destination, left.destination_mask, left.destination_inverted),
            (right.destination, right.destination_mask, right.destination_inverted),
        )
        or _ports_exclude(
            (left.destination_ports, left.destination_ports_inverted),
            (right.destination_ports, right.destination_ports_inverted),
        )
    )


def _protocols_exclude(left: Condition, right: Condition) -> bool:
    if not left.protocol or not right.protocol or (left.protocol_inverted and right.protocol_inverted):
        return False
    return (left.protocol == right.protocol) == (left.protocol_inverted != right.protocol_inverted)


def _addresses_exclude(left: tuple[bytes, bytes, bool], right: tuple[bytes, bytes, bool]) -> bool:
    if not left[0] or not right[0] or left[2] or right[2]:
        return False
    both = (a & b for a, b in zip(left[1], right[1], strict=True))
    return any((a ^ b) & mask for a, b, mask in zip(left[0], right[0], both, strict=True))


def _ports_exclude(
    left: tuple[tuple[tuple[int, int], ...], bool], right: tuple[tuple[tuple[int, int], ...], bool]
) -> bool:
    if not left[0] or not right[0] or left[1] or right[1]:
        return False
    return not any(a <= d and c <= b for a, b in left[0] for c, d in right[0])
