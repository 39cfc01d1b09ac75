"""After a crash: the change that a killed process left in the middle is finished, or undone if only some of its tables
were replaced.
"""

from __future__ import annotations

import contextlib

import attrs

from nfkeep.errors import ConflictError
from nfkeep.keep import journal, quotas, rundir
from nfkeep.keep.change import Change, Replaced, apply
from nfkeep.keep.journal import Flight
from nfkeep.keep.observe import Observation, observe, observe_table
from nfkeep.keep.report import Report
from nfkeep.xtables import connlimit
from nfkeep.xtables.image import Image
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import TableHandle


@attrs.frozen(slots=True)
class Recovered:
    """What was left: the tables concerned, whether they were put back as they had been, and what became of states."""

    tables: str
    undone: bool
    report: Report


def recover(*, lock_timeout: float | None = 60.0) -> tuple[Recovered, ...]:
    """Finish or undo what processes left behind in this network namespace, each change by itself.

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
            recovered.append(_recover(flight))
        journal.forget(name)
    journal.sweep()
    return tuple(recovered)


def _recover(flight: Flight) -> Recovered:
    same = [_is_still(image) for image in flight.before]
    undone = flight.together and any(same) and not all(same)
    for image, unchanged in zip(flight.before, same, strict=True):
        if undone and not unchanged:
            _put_back(image)
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
    report = apply([_change(image, before) for image, before in befores], holds)
    return Recovered(journal.tables_of(flight.before), undone, report)


def _is_still(image: Image) -> bool:
    with TableHandle(image.name, image.family) as handle:
        return handle.opened_as(image)


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
    def replace() -> Replaced:
        # Once more, so that the lists of connlimit are empty: where flows are in them still, a limit that is reached
        # refuses opening packets, and takes those flows off.
        with TableHandle(image.name, image.family) as handle, contextlib.suppress(ConflictError):
            if handle.has((connlimit.NAME,)):
                handle.commit()  # after a conflict somebody else has just replaced it
        return Replaced(observe_table(image.family, image.name), quotas=None)

    return Change(before, image, replace)
