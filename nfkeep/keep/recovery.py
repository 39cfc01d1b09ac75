"""After a crash: the change that a killed process left in the middle is finished, or undone if only some of its tables
were replaced; but what somebody else has changed since is not touched.
"""

from __future__ import annotations

import contextlib
import enum

from nfkeep.errors import ConflictError
from nfkeep.keep import journal, quotas, rundir
from nfkeep.keep.change import Change, Replaced, carry_out
from nfkeep.keep.interrupts import deferred
from nfkeep.keep.journal import Flight, Note
from nfkeep.keep.observe import Observation, observe, observe_table
from nfkeep.keep.report import Recovered
from nfkeep.xtables import connlimit
from nfkeep.xtables.image import Image
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import TableHandle


def recover(*, lock_timeout: float | None = 60.0) -> tuple[Recovered, ...]:
    """Finish or undo what processes left behind in this network namespace, each change by itself.

    Rules that somebody else has changed since are never put back; `left` names their tables.
    Also every transaction does this before it begins. Raises LockTimeoutError, PermissionDeniedError, CommitError.
    """
    with XtablesLock(lock_timeout):
        return recover_locked()


def recover_locked() -> tuple[Recovered, ...]:
    """The same, for one who has the xtables lock."""
    if not rundir.exists():
        return ()
    recovered = []
    for name, flight in journal.left_behind():
        if flight is not None:
            with deferred():
                recovered.append(_recover(name, flight))
        journal.forget(name)
    journal.sweep()
    return tuple(recovered)


def _recover(name: str, flight: Flight) -> Recovered:
    undone, left = _undo(flight)
    journal.decide(name)
    for image in flight.before:
        _give_back_counters(image)
    # Also where everything looks as before: a replace by equal rules cannot be told from none. And each table is made
    # anew, so that no flow is counted twice.
    befores = [(image, _observed(image)) for image in flight.before]
    holds = [
        (before.family, key, extension)
        for _, before in befores
        for key, extension in before.named().items()
        if (before.family, key) in flight.holds
    ]
    # On record as the old flight, until that is forgotten.
    report = carry_out([_change(image, before) for image, before in befores], holds, lambda _: None)
    return Recovered(journal.tables_of(flight.before), undone, report, journal.tables_of(left))


class _Now(enum.Enum):
    """What a table is, but for counters."""

    AS_WANTED = enum.auto()
    AS_BEFORE = enum.auto()
    CHANGED_SINCE = enum.auto()


def _undo(flight: Flight) -> tuple[bool, list[Image]]:
    """Put back the tables of a change that was to be all or none, if only some of them were replaced.

    Whether any was put back; and those that somebody else has changed since, so that they cannot be.
    """
    if not flight.together:
        return False, []
    # The tables behind those with a wanted form were not replaced, whatever they are now.
    about = [(before, _now(before, wanted)) for before, wanted in zip(flight.before, flight.wanted, strict=False)]
    if len(about) == len(flight.before) and about[-1][1] is not _Now.AS_BEFORE:
        # All were replaced; or nobody can tell, where the last one was changed since: then nothing is undone.
        return False, [before for before, now in about[-1:] if now is _Now.CHANGED_SINCE]
    ours = [before for before, now in about if now is _Now.AS_WANTED]
    for before in ours:
        _put_back(before)
    return bool(ours), [before for before, now in about if now is _Now.CHANGED_SINCE]


def _now(before: Image, wanted: Image) -> _Now:
    with TableHandle(before.name, before.family) as handle:
        if handle.opened_as(wanted):
            return _Now.AS_WANTED
        return _Now.AS_BEFORE if handle.opened_as(before) else _Now.CHANGED_SINCE


def _put_back(image: Image) -> None:
    with TableHandle(image.name, image.family) as handle:
        now = observe(handle)
        handle.load(image)
        quotas.count_on(handle, now)
        handle.commit()


def _give_back_counters(image: Image) -> None:
    """Killed between a replace and its counters, a process leaves these at zero."""
    with TableHandle(image.name, image.family) as handle:
        handle.recount(quotas.as_now(handle, image))


def _observed(image: Image) -> Observation:
    with TableHandle(image.name, image.family) as handle:
        handle.load(image)
        return observe(handle)


def _change(image: Image, before: Observation) -> Change:
    def replace(_note: Note) -> Replaced:
        # Once more, so that the lists of connlimit are empty: where flows are in them still, a limit that is reached
        # refuses opening packets, and takes those flows off.
        with TableHandle(image.name, image.family) as handle, contextlib.suppress(ConflictError):
            if handle.has((connlimit.NAME,)):
                handle.commit()  # after a conflict somebody else has just replaced it
        return Replaced(observe_table(image.family, image.name), quotas=None)

    return Change(before, image, replace)
