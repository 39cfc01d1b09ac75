"""The plan once more, at the moment of the move: what is as it was is not translated again.

Between the plan and the move packets are counted, elements expire and new ones come. That changes what is in the sets,
which is written anew, and counters, which are set in the end (nfkeep.migrate.live.counting). All else is a reason to
make a new plan.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.ipset_nft import outline, written_again
from nfkeep.migrate.live.host import sets_of
from nfkeep.migrate.live.plan import make_plan, outcomes
from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.live.host import Host
    from nfkeep.migrate.live.plan import Plan
    from nfkeep.migrate.translation import Translation
    from nfkeep.model import Family

_COUNTED = re.compile(r"^\[\d+:\d+\] (?!.* -m quota )|^(:\S+ \S+) \[\d+:\d+\]$")
"""The counters of rules and policies; those of a quota are more than that."""


def renewed(plan: Plan, host: Host) -> Plan:
    """The plan for the same host as it is now. Raises InvalidRuleError for rules that cannot be read."""
    sets = sets_of(host.ipsets)
    if _same_rules(plan.host.rules, host.rules) and _outlines(sets) == _outlines(sets_of(plan.host.ipsets)):
        host = attrs.evolve(host, rules=plan.host.rules)
        try:
            translations = {family: _renewed(each, sets) for family, each in plan.translations.items()}
        except Lost:
            return make_plan(host, look=False)
        return attrs.evolve(
            plan, host=host, translations=MappingProxyType(translations), outcomes=tuple(outcomes(host, plan.keys))
        )
    return make_plan(host, look=False)


def _same_rules(before: Mapping[Family, str], now: Mapping[Family, str]) -> bool:
    """Whether they differ in counters only."""
    return before.keys() == now.keys() and all(_same_text(before[family], now[family]) for family in now)


def _same_text(before: str, now: str) -> bool:
    lines, others = before.split("\n"), now.split("\n")
    return len(lines) == len(others) and all(
        one == other or _COUNTED.sub(r"\1", one) == _COUNTED.sub(r"\1", other)
        for one, other in zip(lines, others, strict=True)
    )


def _outlines(sets: Mapping[str, IpSet]) -> dict[str, object]:
    return {name: outline(each) for name, each in sets.items()}


def _renewed(translation: Translation, sets: Mapping[str, IpSet]) -> Translation:
    tables = (
        attrs.evolve(table, declarations=tuple(written_again(each, sets) for each in table.declarations))
        for table in translation.tables
    )
    return attrs.evolve(translation, tables=tuple(tables))
