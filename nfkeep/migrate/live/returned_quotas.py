"""What is left of nft's quotas, written into the rules of iptables in the very replace that puts them back into force.

The kernel counts a quota down from the figure in its rule, so that has to be the rest. What passes nft's rules between
the reading and the replace is known once they stand still, and taken off then, by another replace right away; what
passes during that one by a third.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import ConflictError
from nfkeep.keep.ledger import Ledger
from nfkeep.keep.observe import Found, observe
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live.spent_quota import SpentQuota
from nfkeep.migrate.live.ties import rule_keys, words_of
from nfkeep.model import Counters
from nfkeep.nft.quotas import read_quotas
from nfkeep.xtables import quota
from nfkeep.xtables.tables import TableHandle, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.keep.editing import TableEdits
    from nfkeep.keep.transaction import Transactions
    from nfkeep.migrate.live.counted import Added, Counted
    from nfkeep.migrate.live.looks import Looks
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.ties import RuleKey, Tie
    from nfkeep.model import Family
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.quotas import SeenQuota
    from nfkeep.xtables.image import Image

_ROUNDS, _ROUNDS_WITH_LIMITS = 20, 5
"""Replaces at the most. One of a small table takes some 0.3 ms; at three thousand packets a second it takes a few."""
_SECONDS = 0.05
"""No more of them after that: connections wait. One of ten thousand rules takes 15 ms."""
_BEGINNING_FULL = ("limit", "statistic")
"""What every replace lets begin anew."""


class ReturnedQuotas:
    """The quotas of all families: `spend` while the tables are written, `stood_still`, and `outcomes` in the end."""

    def __init__(self, opened: BatchSocket, counted: Mapping[Family, Counted]) -> None:
        self._opened, self._counted = opened, counted
        self._spent: list[SpentQuota] = []
        self._again: dict[Name, int] = {}

    def spend(self, txs: Transactions, names: Sequence[Name]) -> None:
        """Write what is left into the rules that are about to be written. Raises NfkeepError: nothing is written."""
        ledger = Ledger()
        for family, counted in self._counted.items():
            tied = {
                (tie.table, tie.key): tie
                for tie in counted.tied.rules
                if tie.quotas and (tie.table, family) in names and counted.total(tie) is not None
            }
            if not tied:
                continue
            counted.read_again(list(tied.values()))
            figures = self._read(family, list(tied.values()))
            for table in dict.fromkeys(table for table, _ in tied):
                for found, key in _with_quotas(txs[table, family]):
                    tie = tied.get((table, key[0]))
                    if tie is not None and tie.among == key[1] and (total := counted.total(tie)) is not None:
                        self._write(txs[table, family], found, tie, figures, total, ledger)
        ledger.save()

    def _write(
        self, edits: TableEdits, found: Found, tie: Tie, figures: Mapping[tuple[str, str], SeenQuota],
        total: Counters, ledger: Ledger,
    ) -> None:  # fmt: skip
        if len(found.figures) != len(tie.quotas):
            return
        seen = [figures[name] for name in tie.quotas]
        left = tuple(max(0, each.whole - each.used) for each in seen)
        rule = quota.with_figures(attrs.evolve(found.rule, counters=total), left)
        edits.handle.replace(found.chain, found.position, rule)
        place, where = (found.chain, found.position), observe(edits.handle).where(found)
        spent = SpentQuota(
            (edits.table, edits.family), tie, place, where, tuple(s.whole for s in seen), left, total.bytes
        )
        spent.note(ledger, rule)
        self._spent.append(spent)

    def stood_still(self, first: dict[Name, Image], then: dict[Name, Image], looks: Looks) -> None:
        """Write once more what is left, where bytes have passed since `spend`; and again what passes meanwhile.

        nft's tables did not yet stand still when the tables were as in `first`, and did when they were as in `then`;
        `looks` at both tell it closer. In these come the tables that are written, with the counters of those moments.
        The caller has the lock.
        """
        for name in dict.fromkeys(each.name for each in self._spent):
            some = [each for each in self._spent if each.name == name]
            first[name], then[name] = self._see(name, some, first[name], then[name], looks)
            if self._write_again(name, some):
                then[name] = _with_counters(read_image(*name), then[name].counters())

    def _see(
        self, name: Name, some: Sequence[SpentQuota], first: Image, then: Image, looks: Looks
    ) -> tuple[Image, Image]:
        """See what is left, and add to the rules' counters what they are to have; both as if they had had it."""
        counted = self._counted[name[1]]
        counted.read_again([each.tie for each in some])
        figures = self._read(name[1], [each.tie for each in some])
        places = {place: number for number, place in enumerate(then.places())}
        before, after = first.counters(), then.counters()
        more = [Counters()] * len(after)
        for each in some:
            at = places[each.place]
            now = after[at]
            stood = counted.stood(each.tie, name, each.place, before[at], now, looks)
            if stood is None:
                each.doubt = now.bytes - before[at].bytes
            else:
                before[at] = now
            total = counted.total(each.tie) or stood or now
            more[at] = _without(total, stood or now)
            each.stood_still((stood or now).bytes, now.bytes, more[at].bytes, [figures[of] for of in each.tie.quotas])
        with TableHandle(*name) as handle:
            handle.count([each.packets for each in more], [each.bytes for each in more])
        return _with_more(first, before, more), _with_more(then, after, more)

    def _write_again(self, name: Name, some: Sequence[SpentQuota]) -> int:
        """How often that was done."""
        ledger, began = Ledger(), time.monotonic()
        for rounds in range(_ROUNDS):
            late = [each for each in some if each.late]
            most = _ROUNDS_WITH_LIMITS if name in self._again else _ROUNDS
            if not late or rounds == most or time.monotonic() - began > _SECONDS:
                return rounds
            with TableHandle(*name) as handle:
                chains = handle.chains()
                rules = {(chains[at], position): rule for at, position, rule in handle.scan((quota.NAME,), jumps=False)}
                for each in late:
                    rule = each.written(rules[each.place])
                    handle.rewrite(*each.place, rule)
                    each.note(ledger, rule)
                ledger.save()
                try:
                    handle.commit()
                except ConflictError:  # somebody without the lock
                    return rounds
                if handle.has(_BEGINNING_FULL):
                    self._again[name] = rounds + 1
                for each in late:
                    now = handle.replaced(*each.place)
                    each.late = None if now is None else now.bytes - each.at
        return _ROUNDS

    def _read(self, family: Family, ties: Sequence[Tie]) -> dict[tuple[str, str], SeenQuota]:
        names = [each for tie in ties for each in tie.quotas]
        return dict(zip(names, read_quotas(self._opened, family.value, names), strict=True))

    def outcomes(self, added: Mapping[Name, Added]) -> Iterator[Outcome]:
        """What came of it, once what has passed meanwhile is known."""
        for each in self._spent:
            of_rule = added[each.name].counters.get(each.tie.key) if each.name in added else None
            yield each.outcome(None if of_rule is None else of_rule.bytes)
        for (table, family), times in self._again.items():
            detail = f"began full {times} times more within milliseconds, as quotas were in use: a burst each may pass"
            yield Outcome("limit", f"{family} {table}, all rules", Fidelity.APPROXIMATED, detail)


def _without(some: Counters, other: Counters) -> Counters:
    return Counters(max(0, some.packets - other.packets), max(0, some.bytes - other.bytes))


def _with_more(image: Image, counters: Sequence[Counters], more: Sequence[Counters]) -> Image:
    both = zip(counters, more, strict=True)
    return _with_counters(image, [Counters(a.packets + b.packets, a.bytes + b.bytes) for a, b in both])


def _with_counters(image: Image, counters: Sequence[Counters]) -> Image:
    return image.with_counters([each.packets for each in counters], [each.bytes for each in counters])


def _with_quotas(edits: TableEdits) -> list[tuple[Found, tuple[RuleKey, int]]]:
    """The rules with quotas, with their keys and among how many of the same words they are."""
    now = observe(edits.handle)
    by_chain: dict[str, list[Found]] = {}
    for found in now.found:
        if any(found.matches(quota.NAME)):
            by_chain.setdefault(found.chain, []).append(found)
    return [
        each
        for chain, some in by_chain.items()
        for each in zip(some, rule_keys(chain, (words_of(str(f.rule)) for f in some), policy=False), strict=True)
    ]
