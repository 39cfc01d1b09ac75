"""What nft's rules have counted for those of iptables, and how that gets into these."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.migrate.live.agreement import iptables_at
from nfkeep.migrate.live.ties import by_chain, digest, rule_keys, words_of
from nfkeep.model import Counters
from nfkeep.nft.rule_counters import list_rules, read_again, seen
from nfkeep.xtables.tables import TableHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nfkeep.migrate.live.looks import Looks
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.ties import FamilyTies, RuleKey, Tie
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.rule_counters import SeenRule
    from nfkeep.nft.table_list import SeenTable
    from nfkeep.xtables.image import Image

Stood: TypeAlias = "Callable[[RuleKey, tuple[str, int], Counters, Counters], Counters | None]"
Totals = dict["RuleKey", tuple[int, Counters]]
"""By key: among how many of the same words a rule was one, and what it is to have counted."""


class Counted:
    """The counters of nft's rules in one family, found by what was noted when they were made.

    `tables`: those that are there yet. `continuing`: those that are still the ones that were made then; others were
    loaded anew, and count from zero. `others`: the rules in all of them that were not made then, since `read`.
    """

    def __init__(self, opened: BatchSocket, tied: FamilyTies, there: Sequence[SeenTable], *, same_boot: bool) -> None:
        self._opened, self.tied = opened, tied
        handles = {each.name: each.handle for each in there if each.family == tied.family.value}
        self.tables = [name for name in tied.tables if name in handles]
        self.continuing = frozenset(n for n in self.tables if same_boot and handles[n] == tied.tables[n].handle)
        self._rules: dict[tuple[str, str, int], SeenRule] = {}
        self.others: list[SeenRule] = []
        self._ties: dict[tuple[str, RuleKey], Tie] = {}

    def read(self) -> None:
        """Read all counters, with one listing for each table."""
        number = self.tied.family.value
        self._rules, self.others = {}, []
        for table in self.tables:
            made = self.tied.tables[table]
            chains = by_chain(seen(number, list_rules(self._opened, number, table)))
            for chain, rules in chains.items():
                noted = made.chains.get(chain, ())
                if table in self.continuing:
                    known, there = {(rule.handle, digest(rule)): rule for rule in rules}, frozenset(noted)
                    found = {at: known[each] for at, each in enumerate(noted) if each in known}
                    self.others += [rule for each, rule in known.items() if each not in there]
                else:
                    digests = [digest(rule) for rule in rules]
                    found = dict(enumerate(rules)) if digests == [each for _, each in noted] else {}
                    left = Counter(each for _, each in noted)
                    for rule, each in zip(rules, digests, strict=True):
                        left[each] -= 1
                        self.others += [rule] * (left[each] < 0)
                self._rules.update({(table, chain, at): rule for at, rule in found.items()})

    def read_again(self, some: Sequence[Tie]) -> None:
        """Read the counters of these once more."""
        places = [place for tie in some for place in tie.rules if place in self._rules]
        rules = read_again(self._opened, [self._rules[place] for place in places])
        self._rules.update(zip(places, rules, strict=True))

    def total(self, tie: Tie) -> Counters | None:
        """What a rule of iptables is to have counted by now; None if what counts for it is not to be found."""
        counted = [rule.counters for place in tie.rules if (rule := self._rules.get(place)) and rule.counters]
        if len(counted) < len(tie.rules):
            return None
        packets, size = sum(each.packets for each in counted), sum(each.bytes for each in counted)
        # What is lower than in the beginning has been put to zero.
        if packets >= tie.base.packets and size >= tie.base.bytes and self._goes_on(tie):
            return Counters(packets, size)
        return Counters(tie.base.packets + packets, tie.base.bytes + size)

    def stood(
        self, tie: Tie, name: Name, place: tuple[str, int], first: Counters, then: Counters, looks: Looks
    ) -> Counters | None:
        """What a rule of iptables had counted in the moment from which on nft's have stood still; None: not known.

        That is between `first` and `then`. `place`: its chain and position, from 1. Those of nft were read since.
        """
        if first == then:
            return first
        rules = [rule for place in tie.rules if (rule := self._rules.get(place)) is not None]
        counted = [rule.counters for rule in rules if rule.counters is not None]
        if len(counted) < len(tie.rules):
            return None
        nft = Counters(sum(each.packets for each in counted), sum(each.bytes for each in counted))
        found = iptables_at(nft, looks.of(name, place, [(rule.table, rule.handle) for rule in rules]))
        within = found is not None and first.packets <= found.packets <= then.packets
        return found if within and found is not None and first.bytes <= found.bytes <= then.bytes else None

    def stood_by_key(
        self, name: Name, looks: Looks, key: RuleKey, place: tuple[str, int], first: Counters, then: Counters
    ) -> Counters | None:
        """The same of the rule that is known by this key."""
        if not self._ties:
            self._ties = {(tie.table, tie.key): tie for tie in self.tied.rules}
        return self.stood(self._ties[name[0], key], name, place, first, then, looks)

    def totals(self, table: str) -> tuple[Totals, int]:
        """Those of all rules and policies of a table of iptables, and how many more have none."""
        ties = [tie for tie in self.tied.rules if tie.table == table]
        found = {tie.key: (tie.among, total) for tie in ties if (total := self.total(tie)) is not None}
        return found, len(ties) - len(found)

    def _goes_on(self, tie: Tie) -> bool:
        return all(table in self.continuing for table, _, _ in tie.rules)


@attrs.frozen(slots=True)
class Added:
    """What was added to a table: by key, for what is there; `missing`: how many rules are not there as they were.

    `unsure`: how many packets each of them may have too little, at the most.
    """

    counters: Mapping[RuleKey, Counters]
    missing: int
    unsure: int


def add(name: Name, first: Image, then: Image, totals: Totals, stood: Stood) -> Added:
    """Add to a table what is missing in it since the moment of the totals. The caller has the lock.

    The table was as in `first` before that moment, and as in `then` after it; what its rules had counted in it `stood`
    tells, if that is known. Raises ConflictError if somebody without the lock has another number of rules in it by now,
    CommitError.
    """
    with TableHandle(*name) as handle:
        now = dict(_keys(handle))
        if handle.opened_as(then):
            before = now
        else:
            with TableHandle(*name) as earlier:
                earlier.load(then)
                before = dict(_keys(earlier))
        image = handle.image()
        into = {place: number for number, place in enumerate(image.places()) if place is not None}
        counted = dict(zip(then.places(), zip(first.counters(), then.counters(), strict=True), strict=True))
        packets, octets = [0] * image.number, [0] * image.number
        added, unsure = {}, 0
        for key, (among, total) in totals.items():
            if key not in now or key not in before or now[key][1] != among or before[key][1] != among:
                continue
            at_first, had = counted[before[key][0]]
            if at_first != had:
                found = stood(key, before[key][0], at_first, had)
                unsure = unsure if found else max(unsure, had.packets - at_first.packets)
                had = found or had
            more = Counters(max(0, total.packets - had.packets), max(0, total.bytes - had.bytes))
            number = into[now[key][0]]
            packets[number], octets[number] = more.packets, more.bytes
            added[key] = more
        if any(packets):
            handle.count(packets, octets)
    return Added(added, len(totals) - len(added), unsure)


def _keys(handle: TableHandle) -> Iterator[tuple[RuleKey, tuple[tuple[str, int], int]]]:
    """By key: place, and among how many of the same words it is."""
    for chain in handle.chains():
        words = [words_of(str(rule)) for rule in handle.rules(chain)]
        for number, (key, among) in enumerate(rule_keys(chain, words, policy=handle.policy(chain) is not None), 1):
            yield key, ((chain, number), among)
