"""Counters that go on in nft where those of iptables have stopped.

When nft's rules are loaded, iptables counts on until it is put out of action; opening packets pass nft's rules; for a
moment both count. Once iptables stands still, what its rules have counted in the end is known exactly, and nft's rules
are set to that and what has come since. A packet that passes while a rule's counter is read and set is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.live.commands import run_nft
from nfkeep.migrate.live.host import source_of
from nfkeep.migrate.parts import Statement
from nfkeep.model import Counters, Family
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.rule_counters import SeenRule, list_rules, read_again, seen
from nfkeep.nft.table_list import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Self

    from nfkeep.migrate.layout import Line
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.translation import Translation
    from nfkeep.xtables.image import Image

_COUNTER = ("counter", "counter ")
_AT_ONCE = 10
"""Rules that are set in one go: more of them, and more packets would pass meanwhile."""

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
    first, last = _told(before, family), _told(after, family)
    return {
        where: Counters(now.packets - first[where].packets, now.bytes - first[where].bytes)
        for where, now in last.items()
        if where in first
    }


def _told(text: str, family: Family) -> dict[Where, Counters]:
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


class Continuation:
    """The counters of one translation that is loaded: read on entry, so soon after iptables stands still.

    A context manager; `text` is what was translated. `handles`: those of its tables, as they were before that.
    """

    def __init__(self, translation: Translation, text: str, family: Family) -> None:
        self.translation, self.text, self.family = translation, text, family
        self.opened = BatchSocket()
        self.handles = {each.name: each.handle for each in tables(self.opened) if each.family == family.value}
        self.there: dict[str, list[SeenRule]] = {}
        self.counting: dict[Where, list[tuple[Line, SeenRule]]] = {}
        self._listed = self._list()
        self.lines = lines_of(text, family)

    def _list(self) -> dict[str, list[bytes]]:
        number = self.family.value
        return {table.name: list_rules(self.opened, number, table.name) for table in self.translation.tables}

    def _understand(self) -> None:
        self.there = {table: seen(self.family.value, rules) for table, rules in self._listed.items()}
        self.counting = counting_rules(self.translation, self.there, self.lines)

    def go_on(self, final: Mapping[Where, Counters]) -> int:
        """Have them go on from what iptables has counted in the end, and what has come since they were read.

        How many rules and policies of iptables that are. From then on `there` has the rules of nft by table, and
        `counting` those among them that count for each of iptables.
        """
        self._understand()
        counting = [(final[where], rules) for where, rules in self.counting.items() if where in final]
        wrong = [
            _Counting(rules, Counters(*missing)) for each, rules in counting if any(missing := _missing(each, rules))
        ]
        settable = [each for each in wrong if each.first.settable]
        for at in range(0, len(settable), _AT_ONCE):
            some = settable[at : at + _AT_ONCE]
            self.opened.run([rule.counting(total) for rule, total in self._totals(some)])
        others = [each for each in wrong if not each.first.settable]
        if others:
            lines = [each.rules[0][0] for each in others]
            totals = self._totals(others)
            run_nft("".join(_replaced(line, *each) for line, each in zip(lines, totals, strict=True)))
        if wrong:  # others stand in their places
            self._listed = self._list()
            self._understand()
        return len(counting)

    def _totals(self, some: Sequence[_Counting]) -> list[tuple[SeenRule, Counters]]:
        """For the first rule of each: what it has counted by now, and what is missing."""
        found = []
        for each, now in zip(some, read_again(self.opened, [each.first for each in some]), strict=True):
            assert now.counters is not None, "it had one"
            packets, size = now.counters.packets + each.missing.packets, now.counters.bytes + each.missing.bytes
            found.append((now, Counters(max(0, packets), max(0, size))))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()


@attrs.frozen(slots=True)
class _Counting:
    """The rules of nft that count for one of iptables; `missing`: what all together have too little, or too much."""

    rules: list[tuple[Line, SeenRule]]
    missing: Counters

    @property
    def first(self) -> SeenRule:
        """The rule that has what was counted before."""
        return self.rules[0][1]


def _missing(final: Counters, rules: Sequence[tuple[Line, SeenRule]]) -> tuple[int, int]:
    """Packets and bytes that these have too little, or, below zero, too much."""
    packets, octets = final.packets, final.bytes
    for _, rule in rules:
        if rule.counters is not None:
            packets -= rule.counters.packets
            octets -= rule.counters.bytes
    return packets, octets


def _replaced(line: Line, rule: SeenRule, total: Counters) -> str:
    """The command of nft that puts the same rule, with this counter, in its place: for one with a nameless set."""
    counter = f"counter packets {total.packets} bytes {total.bytes}"
    text = " ".join(counter if _is_counter(part) else str(part) for part in line.parts)
    family = "ip6" if rule.family == Family.IPV6.value else "ip"
    return f"replace rule {family} {rule.table} {rule.chain} handle {rule.handle} {text}\n"


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
) -> dict[Where, list[tuple[Line, SeenRule]]]:
    """The rules of nft that count for each rule of iptables, the one that began with its counters first."""
    found: dict[Where, list[tuple[Line, SeenRule]]] = {}
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
                if line.source in lines and (begins := _counts(line)) is not None and rule.counters is not None:
                    counting = found.setdefault(lines[line.source], [])
                    counting.insert(0 if begins else len(counting), (line, rule))
    return found


def _counts(line: Line) -> bool | None:
    """Whether a line begins with what was counted before, or from zero; None if it has no counter."""
    for part in line.parts:
        if isinstance(part, Statement) and part.text[:8] in _COUNTER:
            return part.text != "counter"
    return None


def _is_counter(part: Simple) -> bool:
    return isinstance(part, Statement) and part.text[:8] in _COUNTER
