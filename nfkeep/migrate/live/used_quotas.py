"""What became of each quota in a move: whether nft's goes on to the byte, or how much more it may let pass.

nft's are loaded with what the rules of iptables had counted then; those have counted on until nft's came into force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.report import Fidelity
from nfkeep.migrate.live.counting import told_counters
from nfkeep.migrate.live.host import source_of
from nfkeep.xtables.quota import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nfkeep.keep.report import Outcome
    from nfkeep.migrate.live.beginning import Begun
    from nfkeep.migrate.live.plan import Plan
    from nfkeep.model import Family

_EXACTLY = "goes on where the rule's byte counter is, to the byte"
_MORE = "goes on where the rule's byte counter was when nft read it: {} bytes more may pass"


def as_used(planned: Iterable[Outcome], plan: Plan, begun: Callable[[Family], Begun]) -> list[Outcome]:
    """The outcomes, with what is known now in those of quotas that nft's can be compared with."""
    outcomes = list(planned)
    if not any(each.kind == NAME for each in outcomes):
        return outcomes
    later: dict[str, int] = {}
    for family, translation in plan.translations.items():
        text, doubtful = plan.host.rules[family], {loss.line for loss in translation.losses}
        most, loaded = begun(family).most, told_counters(text, family)
        for table in source_of(text, family).tables:
            for chain in table.chains:
                for number, rule in enumerate(chain.rules):
                    where = table.name, chain.name, number
                    if where in most and rule.line not in doubtful and _counts_all(rule.words):
                        more = most[where].bytes - loaded[where].bytes
                        later[f"{family} {table.name} {chain.name} rule {number + 1}"] = more
    return [_told(each, later[each.where]) if each.kind == NAME and each.where in later else each for each in outcomes]


def _counts_all(words: Sequence[str]) -> bool:
    """Whether the rule's counter has all that its quota has been used by: nothing behind that decides, too."""
    if words.count("--quota") != 1:
        return False
    at = words.index("--quota")
    return words[at - 1] != "!" and list(words[at + 2 : at + 3]) in ([], ["-j"], ["-g"])


def _told(planned: Outcome, octets: int) -> Outcome:
    if octets:
        return attrs.evolve(planned, detail=_MORE.format(max(0, octets)))
    return attrs.evolve(planned, fidelity=Fidelity.RESTORED, detail=_EXACTLY)
