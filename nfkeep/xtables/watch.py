"""Tells that somebody is about to change, or has changed, the legacy tables of this network namespace.

The kernel has no events for that. Programs that change a table take the xtables lock first, though, so it is the lock
file that is watched; for those that do not, the tables themselves are looked at now and then.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.model import Family
from nfkeep.xtables import _ffi
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import in_use
from nfkeep.xtables.watch_fanotify import Doorkeeper, identity
from nfkeep.xtables.watch_inotify import Listener, Sound, held_by_another
from nfkeep.xtables.watch_tables import TableMarks

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Event", "Kind", "Mode", "TableWatch"]


class Kind(enum.Enum):
    """What an event tells."""

    ABOUT_TO_CHANGE = enum.auto()  #: somebody opens the lock; in mode FANOTIFY it waits for `TableWatch.answer`
    MAYBE_CHANGED = enum.auto()  #: somebody has closed the lock, or a table is another while it is open
    CHANGED_WITHOUT_LOCK = enum.auto()  #: a table is another, and nobody was seen to open the lock


class Mode(enum.Enum):
    """How openings of the lock become known, the best first; `TableWatch` says what each is worth."""

    FANOTIFY = "fanotify"
    INOTIFY = "inotify"
    LOOKING = "looking"


@attrs.frozen(slots=True)
class Event:
    """What happened. `thread`: whose doing it is, as in the caller's pid namespace; None or 0 where that is unknown."""

    kind: Kind
    thread: int | None = None
    number: int | None = attrs.field(default=None, repr=False)


class TableWatch:
    """Watches the lock, and `tables` (by default all that are set up in either family), until `close`.

    What is certain, by `mode` (None takes the best that there is; one that cannot be had raises UnsupportedError):

    - FANOTIFY: nobody who takes the lock reads or writes a table before the caller has answered ABOUT_TO_CHANGE, or
      `patience_seconds` are over; every such event is followed by MAYBE_CHANGED once the lock is closed. Needs
      CAP_SYS_ADMIN outside of user namespaces, and CONFIG_FANOTIFY_ACCESS_PERMISSIONS.
    - INOTIFY: the same events, but nobody waits. A table of 10,000 rules takes iptables 8 ms from the opening to the
      replace, an empty one 0.2 ms: that is over before the event is read in most cases. What the caller's own thread
      and other network namespaces do with the lock shows too, so do not take it on MAYBE_CHANGED.
    - LOOKING: nothing before the fact. In every mode the size of the tables is looked at every `poll_seconds`, and all
      of their rules every second; what changed without the lock shows then. A replace by equal rules never does.

    What the thread that makes the watch does with the lock itself is never held up, and in mode FANOTIFY not told. That
    thread is the one to call everything here. It must not wait, between an event and its answer, for a program that
    takes the lock. While the process is stopped (SIGSTOP) all openers wait; once it is dead none does.

    The lock file is made if it is not there, as iptables does. Where it is removed and made anew, what is opened before
    the watch has seen that goes unheard; MAYBE_CHANGED follows. Raises PermissionDeniedError without CAP_NET_ADMIN.
    """

    def __init__(
        self,
        tables: Iterable[tuple[Family, str]] | None = None,
        *,
        mode: Mode | None = None,
        patience_seconds: float = 1.0,
        poll_seconds: float | None = None,
    ) -> None:
        self.path = XtablesLock().path
        self._events: deque[Event] = deque()
        self._doorkeeper: Doorkeeper | None = None
        self._listener: Listener | None = None
        self._file = -1
        self._opened = False
        self._ticks = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_lock)
            self._mode = self._watch_lock(mode, patience_seconds)
            self._early = self._held()
            if poll_seconds is None:
                poll_seconds = _LOOKING_SECONDS if self._mode is Mode.LOOKING else _POLL_SECONDS
            self._thorough = max(1, round(_THOROUGH_SECONDS / poll_seconds))
            if tables is None:
                tables = [(family, name) for family in Family for name in in_use(family)]
            self._marks = TableMarks(tables)
            undo.callback(self._marks.close)
            self._ticker = _ffi.ticker_open(poll_seconds)
            undo.callback(os.close, self._ticker)
            self._epoll = undo.enter_context(select.epoll())
            for source in (self._ticker, self._doorkeeper, self._listener):
                if source is not None:
                    self._epoll.register(source, select.EPOLLIN)
            self._undo = undo.pop_all()
        if self._early:
            self._events.append(Event(Kind.ABOUT_TO_CHANGE))

    @property
    def mode(self) -> Mode:
        """How openings become known now."""
        return self._mode

    @property
    def occupied(self) -> bool:
        """Whether somebody who was let in, or was there before, has not closed the lock yet and may change a table.

        Who waits for its turn at the lock counts too.
        """
        if self._doorkeeper is not None:
            self._early = self._early and self._held()
            return self._early or self._doorkeeper.occupied
        return self._opened or self._held()

    def fileno(self) -> int:
        """Readable when there may be events; then call `wait(0)` until it gives None."""
        return self._epoll.fileno()

    def wait(self, timeout_seconds: float | None = None) -> Event | None:
        """The next event, in order; None if there is none for so long (None: wait as long as it takes).

        Before one that tells of a change it reads the tables, for 0.5 µs a rule.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._events:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = {descriptor for descriptor, _ in self._epoll.poll(left)}
            self._hear()
            if self._ticker in ready:
                self._look()
            if not ready and not self._events:
                return None
        event = self._events.popleft()
        if event.kind is not Kind.ABOUT_TO_CHANGE:
            self._marks.note()  # before the caller looks, so that it sees whatever this does not
        return event

    def answer(self, event: Event) -> bool:
        """Let the opener of an ABOUT_TO_CHANGE go on; whether it has waited for this, so that it has seen no table yet.

        False if it did not wait (other modes, or there before the watch), or had waited too long and has gone on.
        """
        return self._doorkeeper is not None and event.number is not None and self._doorkeeper.let_in(event.number)

    def close(self) -> None:
        """Let everybody go on and watch no more. Idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch_lock(self, wanted: Mode | None, patience_seconds: float) -> Mode:
        refusals = []
        for mode in Mode if wanted is None else (wanted,):
            try:
                if mode is Mode.FANOTIFY:
                    self._doorkeeper = Doorkeeper(patience_seconds)
                if mode is not Mode.LOOKING:
                    self._listener = Listener(openings=mode is Mode.INOTIFY)
                    self._add_file()
            except OSError as error:
                self._close_lock()
                refusals.append(f"{mode.value}: {error}")
            else:
                return mode
        raise UnsupportedError(
            f"the xtables lock {self.path} cannot be watched; {'; '.join(refusals)}",
            feature=refusals[0].partition(":")[0],
        )

    def _close_lock(self) -> None:
        for one in (self._doorkeeper, self._listener):
            if one is not None:
                one.close()
        self._doorkeeper = self._listener = None
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _add_file(self) -> None:
        """Watch the file that has the lock's name now; kept open, so that its number stays its own."""
        file = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for one in (self._listener, self._doorkeeper):
                if one is not None:
                    one.add(file)
        except BaseException:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = file

    def _follow(self) -> None:
        """Watch another file if the name is another's now."""
        with contextlib.suppress(FileNotFoundError):
            if identity(os.stat(self.path)) == identity(os.fstat(self._file)):
                return
        with contextlib.suppress(OSError):  # tried again at the next tick
            self._add_file()
            self._add(Event(Kind.MAYBE_CHANGED))

    def _held(self) -> bool:
        return self._file >= 0 and held_by_another(*identity(os.fstat(self._file)))

    def _hear(self) -> None:
        """Turn what the lock's watchers have into events."""
        if self._doorkeeper is not None:
            for sign in self._doorkeeper.take():
                kind = Kind.MAYBE_CHANGED if sign.number is None else Kind.ABOUT_TO_CHANGE
                self._add(Event(kind, sign.thread, sign.number))
            if not self._doorkeeper.alive:
                self._epoll.unregister(self._doorkeeper)
                self._doorkeeper.close()
                self._doorkeeper, self._mode = None, Mode.LOOKING
        for sound in self._listener.take() if self._listener is not None else ():
            if sound is Sound.RENAMED:
                self._follow()
            else:
                self._opened = sound is Sound.OPENED
                self._add(Event(Kind.ABOUT_TO_CHANGE if self._opened else Kind.MAYBE_CHANGED))

    def _look(self) -> None:
        """Look at the tables, unless the caller is about to."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._ticker, 8)
        self._ticks += 1
        if self._listener is not None:
            self._follow()
        thoroughly = self._ticks % self._thorough == 0
        if self._told_of_change() or not self._marks.changed(thoroughly=thoroughly):
            return
        occupied = self.occupied  # asked first: who closes the lock between the two is heard of
        self._hear()
        if not self._told_of_change():
            self._events.append(Event(Kind.MAYBE_CHANGED if occupied else Kind.CHANGED_WITHOUT_LOCK))

    def _told_of_change(self) -> bool:
        return any(event.kind is not Kind.ABOUT_TO_CHANGE for event in self._events)

    def _add(self, event: Event) -> None:
        same = self._events and self._events[-1].kind is event.kind is Kind.MAYBE_CHANGED
        if not same:
            self._events.append(event)


_POLL_SECONDS = 0.1
_LOOKING_SECONDS = 0.01
_THOROUGH_SECONDS = 1.0
