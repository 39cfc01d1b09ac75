"""Quotas that go on in nft where those of iptables were when nft's rules came into force.

nft's are loaded with what the rules of iptables had counted when they were read, and those count on until the tables
wake. What passed meanwhile is used up at once then, while iptables is in force, too: at no moment more may pass than
was left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity
from nfkeep.migrate.live.counting import told_counters
from nfkeep.migrate.live.host import source_of
from nfkeep.migrate.live.ties import own_quotas
from nfkeep.model import Counters
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.making_good import Lack, make_good
from nfkeep.nft.quotas import quota_names, read_quotas
from nfkeep.nft.rule_counters import list_rules, seen
from nfkeep.xtables.quota import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nfkeep.keep.report import Outcome
    from nfkeep.migrate.live.beginning import Beginning
    from nfkeep.migrate.live.counting import Where
    from nfkeep.migrate.live.plan import Plan
    from nfkeep.model import Family
    from nfkeep.nft.rule_counters import SeenRule

_EXACTLY = "goes on where the rule's byte counter is, to the byte"
_UNKNOWN = "goes on where the rule's byte counter was when nft read it, or later; how much more may pass is not known"
_MORE = "goes on where the rule's byte counter was: {} bytes more may pass, which passed in the moment of the change"


@attrs.frozen(slots=True)
class _Quota:
    """A quota whose rule of iptables had `loaded` when it was read; `rule` is the one of nft that asks it.

    `told`: how outcomes name its place. `doubt`: why what it was loaded with may not be exact; "" if it is. `ahead`:
    how many bytes more are used than the rule has counted, because its counter was set or the quota begun anew.
    """

    where: Where
    told: str
    doubt: str
    loaded: Counters
    rule: SeenRule
    name: str
    ahead: int


class UsedQuotas:
    """The quotas of a plan whose tables are loaded and asleep, but for those of which no counter tells what is used."""

    def __init__(self, plan: Plan) -> None:
        self._quotas: dict[Family, list[_Quota]] = {}
        self._known: dict[str, str] = {}
        if any(each.kind == NAME for each in plan.outcomes) and not plan.host.iptables_nft:
            with contextlib.closing(BatchSocket()) as opened:
                self._quotas = {family: list(_found(plan, family, opened)) for family in plan.translations}

    def go_on(self, beginning: Beginning) -> None:
        """Use up what passed until nft's tables woke, right after that. Where that fails nft's have more left."""
        with contextlib.closing(BatchSocket()) as opened:
            for family, quotas in self._quotas.items():
                if quotas:
                    self._go_on(opened, family, quotas, beginning)

    def _go_on(self, opened: BatchSocket, family: Family, quotas: Sequence[_Quota], beginning: Beginning) -> None:
        begun = beginning.begun(family)
        lacks: dict[Where, Lack] = {}
        moment: dict[Where, int] = {}
        for each in quotas:
            least, most = begun.least.get(each.where), begun.most.get(each.where)
            if least is None or most is None or least.packets < each.loaded.packets:  # somebody has put it to zero
                continue
            packets, octets = least.packets - each.loaded.packets, least.bytes - each.loaded.bytes
            lacks[each.where] = Lack(each.rule, packets, octets, each.name, each.ahead)
            moment[each.where] = most.bytes - least.bytes
        missing = {where: Counters(lack.packets, lack.bytes) for where, lack in lacks.items()}
        try:
            make_good(opened, [each for each in lacks.values() if each.any])
        except NfkeepError:  # no reason to undo the move: as planned then
            moment = {}
        got = {
            where: Counters(missing[where].packets - lack.packets, missing[where].bytes - lack.bytes)
            for where, lack in lacks.items()
        }
        beginning.got(family, got)
        for each in quotas:
            if each.where in moment:
                more = moment[each.where] + max(0, lacks[each.where].bytes)
                self._known[each.told] = each.doubt or (_MORE.format(more) if more else _EXACTLY)

    def outcomes(self, planned: Iterable[Outcome]) -> list[Outcome]:
        """The same, with what is known now of the quotas."""
        return [_told(each, self._known.get(each.where, "")) if each.kind == NAME else each for each in planned]


def _found(plan: Plan, family: Family, opened: BatchSocket) -> Iterator[_Quota]:
    text, translation = plan.host.rules[family], plan.translations[family]
    loaded, names = told_counters(text, family), own_quotas(translation)
    asking = _asking(opened, family, {table for some in names.values() for table, _ in some})
    doubts = {loss.line: loss.reason for loss in translation.losses if loss.part.split()[0] == NAME}
    for table in source_of(text, family).tables:
        for chain in table.chains:
            for number, rule in enumerate(chain.rules):
                if not counts_all(rule.words):
                    continue
                [(nft_table, name)] = names.get(rule.line, [("", "")])
                rules = asking.get((nft_table, name), [])
                if len(rules) == 1 and (counted := rules[0].counters) is not None:
                    where = table.name, chain.name, number
                    told = f"{family} {table.name} {chain.name} rule {number + 1}"
                    doubt = doubts.get(rule.line, "")
                    [quota] = read_quotas(opened, family.value, [(nft_table, name)])
                    yield _Quota(where, told, doubt, loaded[where], rules[0], name, quota.used - counted.bytes)


def _asking(opened: BatchSocket, family: Family, tables: Iterable[str]) -> dict[tuple[str, str], list[SeenRule]]:
    """The rules of nft that ask each quota, by table and name."""
    found: dict[tuple[str, str], list[SeenRule]] = {}
    for table in tables:
        for rule in seen(family.value, list_rules(opened, family.value, table)):
            for name in quota_names(rule):
                found.setdefault((table, name), []).append(rule)
    return found


def counts_all(words: Sequence[str]) -> bool:
    """Whether the rule's counter has all that its quota has been used by: nothing behind that decides, too."""
    if words.count("--quota") != 1:
        return False
    at = words.index("--quota")
    behind = list(words[at + 2 :])
    while behind[:3] == ["-m", "comment", "--comment"]:
        del behind[:4]
    return words[at - 1] != "!" and behind[:1] in ([], ["-j"], ["-g"])


def _told(planned: Outcome, known: str) -> Outcome:
    if known == _EXACTLY:
        return attrs.evolve(planned, detail=known)
    if not known and planned.fidelity is not Fidelity.RESTORED:
        return planned
    return attrs.evolve(planned, fidelity=Fidelity.APPROXIMATED, detail=known or _UNKNOWN)
