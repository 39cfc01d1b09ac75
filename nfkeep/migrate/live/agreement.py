"""What iptables had counted when nft began to, found out while both count: exactly, where a few packets tell it.

A packet that nft lets pass both count, one that it drops nft alone. Which of these a rule's packets are is seen by
looking at both several times, each time in a moment in which the rule has counted nothing. From then on it is
arithmetic, and has to agree each time, and with what is known of that moment.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.live.counting import counting_rules, figures, final_counters, lines_of
from nfkeep.migrate.live.parking import OWN
from nfkeep.model import Counters
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.rule_counters import SeenRule, list_rules, read_again, seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.migrate.live.beginning import Beginning
    from nfkeep.migrate.live.counting import Where
    from nfkeep.migrate.live.plan import Plan
    from nfkeep.model import Family

_SECONDS = 0.05
"""A rule that sixty packets a second meet is known by then; new connections wait for it."""
_STEPS = 2
"""Times that a rule has to have counted between looks."""
_MOST_RULES = 200
"""Of one family: with more of them a look takes too long for a moment without packets."""


@attrs.define
class _Rule:
    """A rule of iptables that has counted in the very moment; what `counts` for it in nft began with `loaded`.

    `looks`: what it and nft had counted at moments in which neither did.
    """

    where: Where
    loaded: Counters
    counts: tuple[SeenRule, ...]
    looks: list[tuple[Counters, Counters]] = attrs.field(factory=list)

    @property
    def steps(self) -> int:
        """How often it had counted more."""
        return len({nft for _, nft in self.looks}) - 1


def iptables_at(nft: Counters, looks: Sequence[tuple[Counters, Counters]]) -> Counters | None:
    """What a rule of iptables had counted when nft had counted so much; None if looks at both do not agree on it."""
    if len({nft for _, nft in looks}) <= _STEPS:
        return None
    apart = {_minus(iptables, counted) for iptables, counted in looks}
    if len(apart) == 1:
        [by] = apart
        return Counters(nft.packets + by.packets, nft.bytes + by.bytes)
    alone = {iptables for iptables, _ in looks}
    return alone.pop() if len(alone) == 1 else None


def agree(plan: Plan, beginning: Beginning) -> None:
    """Tell `beginning` what is found out, right after its looks; rules with too much traffic stay as they are known."""
    with contextlib.closing(BatchSocket()) as opened:
        for family in plan.translations:
            if beginning.is_sure(family):
                continue
            rules = list(_unsure(plan, family, beginning, opened))[:_MOST_RULES]
            if rules:
                _look(rules, family, beginning, opened)
            found = {each.where: iptables_at(each.loaded, each.looks) for each in rules}
            beginning.known(family, {where: each for where, each in found.items() if each is not None})


def _unsure(plan: Plan, family: Family, beginning: Beginning, opened: BatchSocket) -> Iterator[_Rule]:
    begun = beginning.begun(family)
    unsure = {where for where, most in begun.most.items() if begun.least.get(where) != most}
    if not unsure:
        return
    translation, number = plan.translations[family], family.value
    there = {each.name: seen(number, list_rules(opened, number, each.name)) for each in translation.tables}
    for where, rules in counting_rules(translation, there, lines_of(plan.host.rules[family], family)).items():
        if where in unsure:
            yield _Rule(where, figures(rules[0][0]), tuple(rule for _, rule in rules))


def _look(rules: Sequence[_Rule], family: Family, beginning: Beginning, opened: BatchSocket) -> None:
    """Look at them until all have counted often enough, or too much time is over."""
    ends, tables = time.monotonic() + _SECONDS, {each.where[0] for each in rules}
    while time.monotonic() < ends and any(each.steps < _STEPS for each in rules):
        before = _counted(rules, opened)
        images = beginning.read(family, tables)
        after = _counted(rules, opened)
        iptables: Mapping[Where, Counters] = final_counters(images, without=OWN)
        for each, one, other in zip(rules, before, after, strict=True):
            if one == other and each.where in iptables:
                each.looks.append((iptables[each.where], one))


def _counted(rules: Sequence[_Rule], opened: BatchSocket) -> list[Counters]:
    """What nft has counted for each."""
    answers = iter(read_again(opened, [rule for each in rules for rule in each.counts]))
    found = []
    for each in rules:
        counted = [next(answers).counters or Counters() for _ in each.counts]
        found.append(Counters(sum(c.packets for c in counted), sum(c.bytes for c in counted)))
    return found


def _minus(some: Counters, other: Counters) -> Counters:
    return Counters(some.packets - other.packets, some.bytes - other.bytes)
