"""The state of legacy tables kept while any other program changes them: `with nfkeep.keep() as kept: …`.

A thread watches the xtables lock (nfkeep.xtables.watch). Before somebody who opens it can read a table, the gates are
shut; when the lock is closed, what was replaced gets its state back and the gates open. Else nothing is held off.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from nfkeep.errors import ConflictError, LockTimeoutError, NfkeepError
from nfkeep.keep import hold, journal, quotas
from nfkeep.keep.change import Change, Gate, Replaced, put_back, rehearse, shut
from nfkeep.keep.interrupts import deferred
from nfkeep.keep.journal import Flight
from nfkeep.keep.observe import Observation, StateKey, observe, observe_table
from nfkeep.keep.plan import can_hold, limited
from nfkeep.keep.recovery import recover_locked
from nfkeep.keep.report import Fidelity, Outcome, Recovered, Report
from nfkeep.model import Family
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.stateful import extensions
from nfkeep.xtables.tables import TableHandle, in_use
from nfkeep.xtables.watch import Event, Kind, Mode, TableWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.xtables.entry import Extension
    from nfkeep.xtables.image import Image

LONGEST_GATE_SECONDS = 3.0
"""A program that holds the lock for longer goes on with the gates open: its new connections may slip in uncounted."""

_LAST_EVENTS_SECONDS = 0.05
_AGAIN_MILLISECONDS = 2
"""The kernel tells of a closing just before it lets go of the lock (__fput() in fs/file_table.c)."""
_SELDOM_MILLISECONDS = 100
_TRIES = 10
_Table = tuple[Family, str]


class Keeping:
    """Watches from entry to exit; see `keep`. One use, one thread."""

    def __init__(self, *, lock_timeout: float | None = 60.0) -> None:
        self._lock_timeout = lock_timeout
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stop = -1
        self._error: BaseException | None = None
        self._report: Report | None = None
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._told: dict[_Table, set[tuple[str, str]]] = {}  # whose outcomes these are
        self._gate_seconds = 0.0
        self._recovered: tuple[Recovered, ...] = ()
        self._first: dict[_Table, tuple[Image, Observation]] = {}
        self._last: dict[_Table, Image] = {}
        self._gates = contextlib.ExitStack()
        self._shut: dict[_Table, Gate] = {}
        self._shut_since = 0.0
        self._put_off = False
        self._anew: set[tuple[Family, StateKey]] = set()
        self._unseen = False

    @property
    def report(self) -> Report:
        """What became of each state that some change has touched; there once the block was left."""
        if self._report is None:
            raise NfkeepError("the block is not left yet, so there is no report")
        return self._report

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise NfkeepError("this is for one use")
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        # A thread of its own: the body of the block, which runs programs, must not be the one that answers for them.
        self._thread = threading.Thread(target=self._run, name="nfkeep-keep")
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # Ctrl-C: nobody would ever tell the thread to end
            with deferred():
                os.eventfd_write(self._stop, 1)
                self._join()
            raise
        if self._error is not None:
            self._join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with deferred():  # Ctrl-C that lands here must not leave the thread without an end, nor break it off
            os.eventfd_write(self._stop, 1)
            self._join()
            self._report = Report(tuple(self._outcomes.values()), self._gate_seconds, self._recovered)
        if self._error is not None and kind is None:
            raise self._error

    def _join(self) -> None:
        assert self._thread is not None
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        try:
            with TableWatch() as watch, self._gates:
                self._snapshot()
                for _, before in self._first.values():
                    if limited(before):  # who opens the lock does not wait for long: the first time must be quick, too
                        rehearse(before)
                with journal.written(
                    Flight(tuple(image for image, _ in self._first.values()), self._held(), together=False)
                ):
                    self._ready.set()
                    self._follow(watch)
                self._take_down()
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def _snapshot(self) -> None:
        """What the tables are now, and inert rules that keep lists alive while nobody names them."""
        with XtablesLock(self._lock_timeout):
            self._recovered = recover_locked()
            for family in Family:
                named = {}
                for name in in_use(family):
                    with TableHandle(name, family) as handle:
                        self._first[family, name] = handle.image(), observe(handle)
                    named.update(self._first[family, name][1].named(holds=False))
                lists = [(key, extension) for key, extension in named.items() if can_hold(key, unseen=True)]
                hold.place(family, lists, beside=self._beside(family))
            for family, name in self._first:  # once more: one of them may have the holds now
                with TableHandle(name, family) as handle:
                    self._last[family, name] = handle.image()

    def _held(self) -> tuple[tuple[Family, tuple[str, str]], ...]:
        return tuple((family, key) for family in Family for key in hold.held(family))

    def _follow(self, watch: TableWatch) -> None:
        poll = select.poll()
        for descriptor in (watch.fileno(), self._stop):
            poll.register(descriptor, select.POLLIN)
        stopping = False
        while not stopping:
            patience = self._patience()
            if again := self._put_off and not watch.occupied:  # nobody's closing of the lock will be heard of
                patience = _AGAIN_MILLISECONDS if self._shut else _SELDOM_MILLISECONDS
            ready = {descriptor for descriptor, _ in poll.poll(patience)}
            stopping = self._stop in ready
            # What the last program did with the lock may still be on its way here.
            while (event := watch.wait(_LAST_EVENTS_SECONDS if stopping else 0)) is not None:
                self._handle(watch, event)
                again = False
            if again and not stopping:
                self._follow_up(watch, locked=True)
            if self._shut and time.monotonic() - self._shut_since > LONGEST_GATE_SECONDS:
                self._open_gates()
        self._look(watch, locked=self._put_off, at_last=True)

    def _patience(self) -> int | None:
        """Milliseconds to wait at the most."""
        return (
            None if not self._shut else max(0, int(1e3 * (self._shut_since + LONGEST_GATE_SECONDS - time.monotonic())))
        )

    def _handle(self, watch: TableWatch, event: Event) -> None:
        if event.kind is Kind.ABOUT_TO_CHANGE:
            try:
                if self._put_off and not watch.occupied:
                    self._look(watch, locked=True)
                self._unseen |= self._put_off
                self._shut_gates()
                self._note_counters()
            finally:
                watch.answer(event)
            return
        self._follow_up(watch, locked=event.kind is Kind.MAYBE_CHANGED)

    def _follow_up(self, watch: TableWatch, *, locked: bool) -> None:
        self._look(watch, locked=locked)
        if watch.occupied:
            self._shut_gates()
        elif not self._put_off:
            self._open_gates()

    def _shut_gates(self) -> None:
        if not self._shut:
            self._shut_since = time.monotonic()
        for table, (_, before) in self._first.items():
            if table not in self._shut and limited(before):
                self._shut[table] = shut(before, self._gates)

    def _note_counters(self) -> None:
        """Of tables that nobody has changed yet: what passed since the last look is counted too."""
        for table, last in self._last.items():
            with TableHandle(table[1], table[0]) as handle:
                now = handle.image()
                if not handle.opened_as(last) or _lower(now, last):
                    continue
                self._last[table] = now
                if table not in self._first:  # made for holds
                    continue
                first, before = self._first[table]
                if handle.opened_as(first):  # should its rules vanish for a while, this is what they have counted
                    self._first[table] = now, before

    def _open_gates(self) -> None:
        if self._shut:
            self._gate_seconds = max(self._gate_seconds, time.monotonic() - self._shut_since)
        self._shut = {}
        self._gates.close()

    def _look(self, watch: TableWatch, *, locked: bool, at_last: bool = False) -> None:
        """Put back the state of every table that was replaced, or may have been.

        Put off while somebody has the lock: to wait would leave the gates shut, and others who open the lock without an
        answer. `at_last` there is no next time.
        """
        self._put_off = False
        with contextlib.ExitStack() as stack:
            # Where the lock's openings are only heard of, ours would be heard of as well.
            exclusive = watch.mode is Mode.FANOTIFY
            occupied = exclusive and watch.occupied
            if exclusive and not self._take_lock(stack, wait=at_last):
                self._put_off = True
                self._unseen |= occupied
                return
            self._unseen |= not exclusive
            touched = [table for table in self._first if self._touched(table, locked=locked)]
            if touched:
                touched += self._renew(locked=exclusive)
            for table in dict.fromkeys(touched):
                _tried_again(functools.partial(self._restore, table))

    def _take_lock(self, stack: contextlib.ExitStack, *, wait: bool) -> bool:
        """With `wait` the gates stay shut no longer than they may."""
        try:
            stack.enter_context(XtablesLock((self._patience() or 0) / 1e3 if wait else 0.0))
        except LockTimeoutError:
            if not wait:
                return False
            self._open_gates()
            stack.enter_context(XtablesLock(self._lock_timeout))
        return True

    def _touched(self, table: _Table, *, locked: bool) -> bool:
        """Whether a table was replaced; a replace by equal rules that carries the counters leaves no trace at all.

        So where somebody had the lock a table with limits counts as replaced, and is counted once more.
        """
        family, name = table
        with TableHandle(name, family) as handle:
            if not handle.opened_as(self._last[table]):
                return True
            lower = _lower(handle.image(), self._last[table])
        return lower or (locked and bool(limited(self._first[table][1])))

    def _restore(self, table: _Table) -> None:
        family, name = table
        image, before = self._first[table]
        for earlier in (self._last[table], image):
            with TableHandle(name, family) as handle:
                handle.recount(quotas.as_now(handle, earlier))
        change = Change(before, image, lambda _: None)
        with contextlib.ExitStack() as stack:
            gate = self._shut.get(table) or shut(before, stack)
            if limited(before):
                _empty_counts(table)
            with TableHandle(name, family) as handle:
                after, seen = observe(handle), handle.image()
            away = before.named(holds=False).keys() - after.named(holds=False).keys()
            self._unseen |= not all(can_hold(key, unseen=True) for key in away)
            report = put_back([change], [gate], [Replaced(after, quotas=None)], {}, unseen=self._unseen)
        with TableHandle(name, family) as handle:
            now = handle.image()
            # Without the lock somebody may have followed at once: the next look must see that.
            self._last[table] = now if handle.opened_as(seen) and not _lower(now, seen) else seen
        if table in self._shut:  # it has opened its gate: a later change in the same breath needs another one
            del self._shut[table]
        self._gate_seconds = max(self._gate_seconds, report.gate_seconds)
        self._tell(table, after, report.outcomes)

    def _tell(self, table: _Table, after: Observation, outcomes: Iterable[Outcome]) -> None:
        """Forget what was told of the table after earlier changes, but of rules that are where they were."""
        there = {(each.name, after.where(found)) for found in after.found for each in extensions(found.entry)}
        for told in self._told.get(table, set()) - there:
            self._outcomes.pop(told, None)
        news = {(outcome.kind, outcome.where): outcome for outcome in outcomes}
        self._told[table] = news.keys() | (self._told.get(table, set()) & there)
        self._outcomes.update(news)

    def _renew(self, *, locked: bool) -> list[_Table]:
        """Where a rule is back with another configuration than what was held for it, give it that.

        The tables that were replaced for it. Without the lock there is a next time, at the end at the latest.
        """
        replaced: list[_Table] = []
        for family in Family:
            if not (unlike := _unlike(family)):
                continue
            with contextlib.ExitStack() as stack:
                if not locked and not self._take_lock(stack, wait=False):
                    continue
                tables = hold.renew(family, unlike)
                hold.place(family, unlike.items(), beside=self._beside(family))
            self._anew |= {(family, key) for key in unlike}
            replaced += [
                (of, name)
                for of, name in self._first
                if of is family and (name in tables or self._touched((of, name), locked=False))
            ]
        return replaced

    def _beside(self, family: Family) -> list[str]:
        return [name for of, name in self._first if of is family and name != "raw"]

    def _take_down(self) -> None:
        """Remove the holds of lists that rules name again; the others stay, and are reported."""
        with XtablesLock(self._lock_timeout):
            for table in self._renew(locked=True):
                _tried_again(functools.partial(self._restore, table))
            quotas.settle(self._first)
            for family in Family:
                named = {}
                for name in in_use(family):
                    with TableHandle(name, family) as handle:
                        named.update(observe(handle).named(holds=False))
                held = hold.held(family)
                told = hold.take_down(family, held & named.keys())
                for outcome in (*told, *hold.lost(family, [key for of, key in self._anew if of is family])):
                    self._outcomes[outcome.kind, outcome.where] = outcome
                for kind, name in held - named.keys():
                    where = f"{family} {name}"
                    detail = "its last rule went; kept until a rule names it again, or `nfkeep release`"
                    self._outcomes[kind, where] = Outcome(kind, where, Fidelity.HELD, detail)


def _unlike(family: Family) -> dict[StateKey, Extension]:
    return hold.unlike(family, [observe_table(family, name) for name in in_use(family)])


def _empty_counts(table: _Table) -> None:
    """Replace a table by itself, between shut gates.

    Who is counted already, if nobody has replaced the table or somebody came in before the gates were shut, would make
    the limit refuse the opening packets of the others, and these would stay out of the count.
    """
    with TableHandle(table[1], table[0]) as handle:
        handle.commit()


def _tried_again(step: Callable[[], None]) -> None:
    """Where we have no lock, or somebody ignores it, the table may become another at any time."""
    for tries_left in reversed(range(_TRIES)):
        try:
            step()
        except ConflictError:
            if not tries_left:
                raise
        else:
            return


def _lower(now: Image, then: Image) -> bool:
    """Whether a counter was put back; both have the same rules."""
    return any(a.packets < b.packets for a, b in zip(now.counters(), then.counters(), strict=True))


def keep(*, lock_timeout: float | None = 60.0) -> Keeping:
    """Keep the state of all legacy tables while other programs change them: `with nfkeep.keep() as kept: …`.

    Whatever changes a table inside the block, in this network namespace and with the xtables lock, as iptables,
    iptables-restore and all that run them do: rules that are there again afterwards, by their content, go on with
    their connlimit counts, what is left of their quotas, and their counters; lists and tables of buckets are held
    while no rule names them. New connections are held off only while somebody has the lock, for three seconds at the
    most at a time. A table with limits is replaced once more when somebody had the lock.
    `kept.report` says what became of each state, once the block is left.

    A program that ignores the lock is noticed within a second; its new connections may have slipped in meanwhile.
    Raises PermissionDeniedError, LockTimeoutError, UnsupportedError.
    """
    return Keeping(lock_timeout=lock_timeout)
