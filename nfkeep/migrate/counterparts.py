"""Which rules of nft stand for which line of the source: what people need who read both beside each other."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nfkeep.migrate.loss import Loss
    from nfkeep.migrate.script import NftTable


@attrs.frozen(slots=True)
class NftRule:
    """One rule of the script, or a remark that stands in its place.

    `table` has the family in front of it, as "ip filter"; `base` is the line of type, hook, priority and policy of a
    base chain, "" for others.
    """

    table: str
    chain: str
    base: str
    text: str


@attrs.frozen(slots=True)
class Counterpart:
    """What a line of the source became: rules in the order of the script, and what is not exact about them.

    What holds for all rules of a kind is said of each here; `Translation.losses` says it once.
    """

    rules: tuple[NftRule, ...] = ()
    losses: tuple[Loss, ...] = ()


def counterparts(
    tables: Sequence[NftTable], losses: Iterable[Loss], general: Mapping[int, Sequence[Loss]]
) -> Mapping[int, Counterpart]:
    """What each line of the source became; 0 has what no line asked for. `general` are admissions by line."""
    rules: dict[int, list[NftRule]] = {}
    for table in tables:
        name = f"{table.family} {table.name}"
        for chain in table.chains:
            for line in chain.lines:
                if line.parts or line.source:
                    rule = NftRule(name, chain.name, chain.base, str(line))
                    for source in (line.source, *line.also):
                        rules.setdefault(source, []).append(rule)
    said: dict[int, list[Loss]] = {}
    for loss in losses:
        said.setdefault(loss.line, []).append(loss)
    for number, admitted in general.items():
        said[number] = list(dict.fromkeys([*said.get(number, ()), *admitted]))
    return MappingProxyType(
        {
            number: Counterpart(tuple(rules.get(number, ())), tuple(said.get(number, ())))
            for number in sorted(rules.keys() | said.keys())
        }
    )
