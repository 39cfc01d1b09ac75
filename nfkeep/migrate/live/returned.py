"""What nft has counted and collected since a move, brought back to iptables when it is undone.

Nothing that goes wrong in it keeps the rules of iptables from coming back into force: it is told in the outcomes.

nft goes on from where iptables stood still. So once both have stood at one moment, the rules of iptables are to have
what nft's have. That moment: the rules of iptables are in force again, and nft's tables are taken off the packets' way.
What iptables has counted from its first packet to that moment nft has counted too, as hooks that were made last come
first (nf_hook_entries_grow() in net/netfilter/core.c); the rest is added, by the kernel.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.live import parking, record, ties
from nfkeep.migrate.live.counted import Counted, add
from nfkeep.migrate.live.looks import Looks
from nfkeep.migrate.live.record import CONFIRMED
from nfkeep.migrate.live.returned_lists import ReturnedLists
from nfkeep.migrate.live.returned_quotas import ReturnedQuotas
from nfkeep.migrate.live.returned_sets import ReturnedSets
from nfkeep.migrate.live.strangers import strangers
from nfkeep.nft import still
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.elements import ElementSocket
from nfkeep.nft.table_list import tables
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import read_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from nfkeep.keep.transaction import Transactions
    from nfkeep.migrate.live.counted import Added
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.record import Record
    from nfkeep.migrate.live.ties import TiedSet
    from nfkeep.xtables.image import Image

_LOCK_SECONDS = 60.0
_NOT_BROUGHT = "what nft has counted since it took over is not added"


class Returned:
    """The way back of one move: `ahead`, then `spend` and `stand_still` while the tables are written, then `finish`.

    A context manager. `names`: the tables of iptables that are there.
    """

    def __init__(self, done: Record, names: Iterable[Name]) -> None:
        self._opened, self._elements = BatchSocket(), ElementSocket()
        there = tables(self._opened)
        ours = record.own_tables(done, {each.key: each.handle for each in there})
        self._tables = [each for each in there if each.key in ours]
        interrupted = any(each.dormant for each in self._tables)
        self._ties = ties.load() if self._tables and not interrupted else None
        # A table in force has counted beside nft: somebody has taken out the rule that parks it.
        self._names = [name for name in names if parking.is_parked(*name)]
        self._first: dict[Name, Image] = {}
        self._then: dict[Name, Image] = {}
        self._collected_at: float | None = None
        self._wrong: list[Exception] = []
        tied = self._ties.families if self._ties else ()
        same_boot = self._ties is not None and self._ties.same_boot
        self._counted = {each.family: Counted(self._opened, each, self._tables, same_boot=same_boot) for each in tied}
        self._looks = Looks(self._opened, {family: each.tables for family, each in self._counted.items()})
        self._quotas = ReturnedQuotas(self._opened, self._counted)
        self._lists: list[ReturnedLists] = []
        self._sets: list[ReturnedSets] = []
        self._waiting: set[TiedSet] = set()
        self._kept = functools.cache(lambda: read_ipsets(record.kept(record.IPSETS)))
        self._done, self._generation, self._by_rules_only = done, 0, False

    def ahead(self) -> None:
        """Bring back what nft has collected so far, so that it is known in the moment of the change."""
        try:
            self._generation = self._opened.generation()
            self._find_collections()
            self._collect()
            for each in self._counted.values():
                if any(tie.quotas for tie in each.tied.rules):
                    each.read()
            self._looks.begin()
        except Exception as error:
            self._wrong.append(error)

    def spend(self, txs: Transactions) -> None:
        """Write what is left of nft's quotas into the rules that are about to be written."""
        try:
            self._quotas.spend(txs, self._names)
        except Exception as error:
            self._wrong.append(error)

    def stand_still(self) -> None:
        """Take nft's rules from the packets' way. Raises NfkeepError."""
        if self._counted:
            self._looks.look(self._names)
        self._first = {name: read_image(*name) for name in self._names} if self._counted else {}
        if self._tables:
            self._by_rules_only = self._opened.generation() == self._generation
            still.stand_still(self._opened, self._tables)
        self._then = {name: read_image(*name) for name in self._first}
        try:
            self._quotas.stood_still(self._first, self._then, self._looks)
        except Exception as error:
            self._wrong.append(error)

    def finish(self) -> list[Outcome]:
        """Bring back all the rest, and delete nft's tables."""
        outcomes: list[Outcome] = []
        try:
            self._collect()
            outcomes += [outcome for lists in self._lists for outcome in lists.outcomes()]
            outcomes += [outcome for sets in self._sets for outcome in sets.outcomes()]
            outcomes += self._count()
            if not (self._unchanged() and self._by_rules_only):
                for counted in self._counted.values():
                    outcomes += strangers(self._opened, counted, self._kept)
        except Exception as error:
            self._wrong.append(error)
        finally:
            if self._tables:
                still.delete(self._opened, self._tables)
        wrong = dict.fromkeys(f"some of what nft has counted and collected: {error}" for error in self._wrong)
        return [*outcomes, *(Outcome("counters", "all rules", Fidelity.LOST, each) for each in wrong)]

    def _collect(self) -> None:
        began = time.monotonic()
        since = self._ties.seconds() if self._ties else None
        if self._collected_at is not None:
            since = began - self._collected_at
        for lists in self._lists:
            lists.bring_back(since)
        for sets in self._sets:
            sets.bring_back(since, leave_out=self._first_time if self._collected_at is None else self._second_time)
        self._collected_at = began

    def _unchanged(self) -> bool:
        """Whether nobody has changed any of nft's rules and sets since the move, but packets."""
        ties = self._ties
        return ties is not None and ties.same_boot and ties.generation == self._generation

    def _first_time(self, tied: TiedSet) -> bool:
        """Whether a set is to wait: nobody has changed any since the move, and the way back is in haste."""
        waits = self._unchanged() and not tied.changing
        if waits:
            self._waiting.add(tied)
        return waits

    def _second_time(self, tied: TiedSet) -> bool:
        """Whether a set is as it was the first time."""
        return self._by_rules_only and not tied.changing and tied not in self._waiting

    def _count(self) -> Iterator[Outcome]:
        added: dict[Name, Added] = {}
        if self._tables and not self._then:
            yield Outcome("counters", "all rules", Fidelity.APPROXIMATED, _NOT_BROUGHT)
        for counted in self._counted.values():
            counted.read()
        for name in self._then:
            if name[1] not in self._counted:
                continue
            counted = self._counted[name[1]]
            totals, unknown = counted.totals(name[0])
            stood = functools.partial(counted.stood_by_key, name, self._looks)
            with XtablesLock(_LOCK_SECONDS):
                done = add(name, self._first[name], self._then[name], totals, stood)
            added[name] = done
            beside = self._ties is not None and not self._ties.same_boot
            yield from _outcomes(name, done, unknown, beside=beside)
        yield from self._quotas.outcomes(added)

    def _find_collections(self) -> None:
        for family, file in record.FILES.items() if self._tables else ():
            counted = self._counted.get(family)
            going_on = counted.continuing if counted else frozenset()
            had = counted.tied.lists if counted and self._same_lists() else {}
            self._lists.append(ReturnedLists(self._elements, record.kept(file), family, going_on, had))
            if counted and counted.tied.sets:
                began, tied = self._done.steps[0][0], counted.tied.sets
                self._sets.append(ReturnedSets(self._elements, family.value, tied, self._kept, began, going_on))

    def _same_lists(self) -> bool:
        """Whether all rules have been there all the time: a list of recent goes with the last rule that names it."""
        confirmed = any(what == CONFIRMED for _, what in self._done.steps)
        return (
            bool(self._ties and self._ties.same_boot) and not confirmed and len(self._names) == len(self._done.legacy)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._elements.close()
        self._opened.close()


def _outcomes(name: Name, done: Added, unknown: int, *, beside: bool) -> Iterator[Outcome]:
    """`beside`: what iptables drops nft does not see, as it comes second."""
    where = f"{name[1]} {name[0]}, all rules and policies"
    detail, fidelity = f"{len(done.counters)} have what nft has counted", Fidelity.RESTORED
    if done.unsure:
        fidelity = Fidelity.APPROXIMATED
        detail += f"; of each, {done.unsure} packets of the moment of the change at most may be missing"
    if beside:
        fidelity = Fidelity.APPROXIMATED
        detail += "; what iptables dropped in the milliseconds in which both were in force may be missing"
    yield Outcome("counters", where, fidelity, detail)
    if number := unknown + done.missing:
        detail = f"what nft has counted for {number} that somebody has changed since, here or there"
        yield Outcome("counters", where, Fidelity.LOST, detail)
