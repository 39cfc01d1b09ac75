"""Counters that go on in nft where those of iptables have stopped.

When nft's rules are loaded, iptables counts on until it is put out of action; opening packets pass nft's rules; for a
moment both count. What a rule of nft has to have more than it has is one number from the moment on in which it comes
into force (`nfkeep.migrate.live.beginning`), and known within bounds. Once iptables stands still, what its rules have
counted in the end bounds it, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.live.host import source_of
from nfkeep.migrate.parts import Statement
from nfkeep.model import Counters, Family
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.making_good import Lack, make_good
from nfkeep.nft.rule_counters import SeenRule, list_rules, seen
from nfkeep.nft.table_list import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Self

    from nfkeep.migrate.layout import Line
    from nfkeep.migrate.live.beginning import Begun
    from nfkeep.migrate.translation import Translation
    from nfkeep.xtables.image import Image

_COUNTER = ("counter", "counter ")
_FIGURES = re.compile(r"counter packets (\d+) bytes (\d+)")
Where = tuple[str, str, int]
"""Table, chain and place in it, from 0; the policy is behind the last rule."""


def final_counters(images: Iterable[Image], *, without: frozenset[str]) -> dict[Where, Counters]:
    """What rules and policies of iptables have counted, but for the rules whose comment is one of `without`."""
    comments = [each.encode() for each in without]
    return {
        (image.name, chain, position - 1): counted
        for image in images
        for chain, position, counted in image.counted(comments)
    }


def counted_between(before: str, after: str, family: Family) -> dict[Where, Counters]:
    """What the same rules have counted from one text of them to the other."""
    first, last = told_counters(before, family), told_counters(after, family)
    return less({where: now for where, now in last.items() if where in first}, first)


def told_counters(text: str, family: Family) -> dict[Where, Counters]:
    """What rules and policies have counted by text of iptables-save."""
    found: dict[Where, Counters] = {}
    for table in source_of(text, family).tables:
        for chain in table.chains:
            for number, rule in enumerate(chain.rules):
                found[table.name, chain.name, number] = rule.counters or Counters()
            if chain.policy is not None:
                found[table.name, chain.name, len(chain.rules)] = chain.counters
    return found


def added(some: Mapping[Where, Counters], more: Mapping[Where, Counters]) -> dict[Where, Counters]:
    """What was counted here and there, of the rules that are in `some`."""
    nothing = Counters()
    return {
        where: Counters(each.packets + more.get(where, nothing).packets, each.bytes + more.get(where, nothing).bytes)
        for where, each in some.items()
    }


def less(some: Mapping[Where, Counters], other: Mapping[Where, Counters]) -> dict[Where, Counters]:
    """What was counted here and not there, of the rules that are in `some`."""
    nothing = Counters()
    return {
        where: Counters(each.packets - other.get(where, nothing).packets, each.bytes - other.get(where, nothing).bytes)
        for where, each in some.items()
    }


class Continuation:
    """The counters of one translation that is loaded: read on entry, so soon after iptables stands still.

    A context manager; `text` is what was translated. `handles`: those of its tables, as they were before that.
    """

    def __init__(self, translation: Translation, text: str, family: Family) -> None:
        self.translation, self.text, self.family = translation, text, family
        self.opened = BatchSocket()
        self.handles = {each.name: each.handle for each in tables(self.opened) if each.family == family.value}
        self.there: dict[str, list[SeenRule]] = {}
        self.counting: dict[Where, list[tuple[str, SeenRule]]] = {}
        self._listed = self._list()
        self.lines = lines_of(text, family)

    def _list(self) -> dict[str, list[bytes]]:
        number = self.family.value
        return {table.name: list_rules(self.opened, number, table.name) for table in self.translation.tables}

    def _understand(self) -> None:
        self.there = {table: seen(self.family.value, rules) for table, rules in self._listed.items()}
        self.counting = counting_rules(self.translation, self.there, self.lines)

    def go_on(self, final: Mapping[Where, Counters], begun: Begun) -> GoneOn:
        """Have them go on: with what iptables has counted until nft has begun to, and what nft has counted since.

        `final`: what iptables has counted in the end. From then on `there` has the rules of nft by table, and
        `counting` those among them that count for each of iptables, each with the counter that it was loaded with.
        """
        self._understand()
        there = [(where, rules) for where, rules in self.counting.items() if where in final]
        counting = [
            _counting(where, final[where], rules, begun)
            for where, rules in there
            if not _stands_still(where, final[where], rules, begun)
        ]
        wrong = [each for each in counting if each.lack.any]
        if wrong:
            make_good(self.opened, [each.lack for each in wrong])
            self._listed = self._list()  # others stand in their places
            self._understand()
        missing = [each.missing for each in counting]
        return GoneOn(len(there), tuple([each for each in missing if each]), missing.count(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()


@attrs.frozen(slots=True)
class _Counting:
    """The rules of nft that count for one of iptables: what they lack, which the first one gets.

    `doubt`: how many packets more they may have too little, at the most; None if that is not known.
    """

    lack: Lack
    doubt: int | None

    @property
    def missing(self) -> int | None:
        """How many packets they may have too little at the most, with what could not be made good; None: not known."""
        return None if self.doubt is None else self.doubt + max(0, self.lack.packets)


def _stands_still(where: Where, final: Counters, rules: Sequence[tuple[str, SeenRule]], begun: Begun) -> bool:
    """Whether nothing has been counted at all, here or there, since the rules were read."""
    loaded, first = rules[0]
    return (
        len(rules) == 1
        and first.counters == final == begun.most.get(where) == begun.least.get(where)
        and begun.opening is not None
        and where not in begun.opening
        and loaded == f"counter packets {final.packets} bytes {final.bytes}"
    )


def _counting(where: Where, final: Counters, rules: Sequence[tuple[str, SeenRule]], begun: Begun) -> _Counting:
    """What rules of nft have that count for one of iptables, which has counted `final`, and what is missing."""
    loaded, first = rules[0]
    has = [rule.counters for _, rule in rules if rule.counters is not None]
    # What passed before nft's counters were read is in these, or in both: so that is missing at least.
    missing = final.packets - sum(each.packets for each in has), final.bytes - sum(each.bytes for each in has)
    least, most = begun.least.get(where), begun.most.get(where)
    if least is None or most is None or final.packets < most.packets:  # somebody has put it to zero
        return _Counting(Lack(first, *missing), doubt=None)
    began = figures(loaded)
    packets, size = began.packets, began.bytes
    opening = (begun.opening or {}).get(where, Counters())
    if begun.opening is not None:
        missing = max(missing, (least.packets - packets - opening.packets, least.bytes - size - opening.bytes))
    return _Counting(Lack(first, *missing), doubt=max(0, most.packets - packets - opening.packets - missing[0]))


@attrs.frozen(slots=True)
class GoneOn:
    """How many rules and policies go on, and how many packets some of them may have too little, at the most.

    `unknown`: of how many that is not known.
    """

    number: int
    missing: tuple[int, ...]
    unknown: int


def lines_of(text: str, family: Family) -> dict[int, Where]:
    """Which rule or policy is on a line of the source."""
    found: dict[int, Where] = {}
    for table in source_of(text, family).tables:
        for chain in table.chains:
            found.update({rule.line: (table.name, chain.name, n) for n, rule in enumerate(chain.rules)})
            if chain.policy is not None:
                found[chain.line] = (table.name, chain.name, len(chain.rules))
    return found


def counting_rules(
    translation: Translation, there: Mapping[str, list[SeenRule]], lines: Mapping[int, Where]
) -> dict[Where, list[tuple[str, SeenRule]]]:
    """The rules of nft that count for each rule of iptables, the one that began with its counters first.

    Each with the text of the counter that it was loaded with.
    """
    found: dict[Where, list[tuple[str, SeenRule]]] = {}
    for table in translation.tables:
        by_chain: dict[str, list[SeenRule]] = {}
        for rule in there[table.name]:
            by_chain.setdefault(rule.chain, []).append(rule)
        for chain in table.chains:
            written = [line for line in chain.lines if not line.remark]
            rules = by_chain.get(chain.name, [])
            if len(written) != len(rules):  # somebody has changed it already: it counts as it does
                continue
            for line, rule in zip(written, rules, strict=True):
                if line.source in lines and (loaded := _counter(line)) and rule.counters is not None:
                    counting = found.setdefault(lines[line.source], [])
                    counting.insert(0 if loaded != "counter" else len(counting), (loaded, rule))
    return found


def figures(loaded: str) -> Counters:
    """What the text of a counter says that it began with."""
    found = _FIGURES.fullmatch(loaded)
    return Counters(int(found[1]), int(found[2])) if found else Counters()


def _counter(line: Line) -> str:
    """The counter of a line, with what was counted before or without figures; "" if it has none."""
    for part in line.parts:
        if isinstance(part, Statement) and part.text[:8] in _COUNTER:
            return part.text
    return ""
