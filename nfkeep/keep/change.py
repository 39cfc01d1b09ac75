"""One change of one legacy table with its state kept: lock, observe, plan, replace, restore, verify, report.

The steps that a transaction of our own and a run of the real iptables have in common.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from nfkeep.errors import CommitError, StateLossError, UnsupportedError
from nfkeep.keep import hold
from nfkeep.keep.interrupts import deferred
from nfkeep.keep.observe import Observation, StateKey, observe
from nfkeep.keep.plan import Plan, limited, limits_of, make_plan
from nfkeep.keep.report import Fidelity, Outcome, Report
from nfkeep.keep.restore import Restoration
from nfkeep.model import Family
from nfkeep.xtables import connlimit
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.tables import TABLES, TableHandle, in_use

Holds = tuple[tuple[StateKey, Extension], ...]


def observe_others(family: Family, table: str) -> tuple[Observation, ...]:
    """The family's other tables as they are; asking sets none up."""
    return tuple(observe_table(family, name) for name in in_use(family) if name != table)


def observe_table(family: Family, table: str) -> Observation:
    """A table as the kernel has it."""
    with TableHandle(table, family) as handle:
        return observe(handle)


def apply(
    before: Observation,
    replace: Callable[[], tuple[Observation, bool]],
    others: tuple[Observation, ...],
    holds: Holds,
    *,
    keep_holds: bool = True,
    refuse: bool = False,
) -> Report:
    """Run `replace` between gate and restoration.

    It changes the kernel's table and gives the table as it is then, and whether it was replaced at all. `holds` are
    placed before and taken down again where the new table names the state itself. Where this host has no means to
    count flows again, the change goes on and the counts are reported lost; with `refuse`, StateLossError is raised
    before anything is changed. The caller has the xtables lock.
    """
    family, table = before.family, before.table
    plan: Plan | None = None
    with deferred():
        hold.place(family, holds, beside=table)
        obsolete = {key for key, _ in holds}
        try:
            with contextlib.ExitStack() as stack:
                restoration, why_not = _shut(before, stack)
                if why_not and refuse:
                    raise StateLossError(_uncounted(limits_of(before), why_not))
                after, replaced = replace()
                plan = make_plan(before, after, others, hold=keep_holds) if replaced else None
                outcomes: list[Outcome] = []
                if plan is not None and restoration is not None:
                    outcomes += restoration.count_again(plan)
                    restoration.open_gate()
                elif plan is not None:
                    outcomes += _uncounted((each.where for each in plan.limits), why_not)
                gate_seconds = restoration.gate_seconds if restoration is not None and replaced else 0.0
        except CommitError as error:
            if error.applied:
                obsolete = set()  # better to hold too much than to lose a list
            raise
        finally:
            if plan is not None:
                obsolete = (obsolete - {key for key, _ in plan.holds}) | plan.returned
            if obsolete:
                hold.take_down(family, obsolete)
    return Report((*outcomes, *(plan.outcomes if plan is not None else ())), gate_seconds)


def _shut(before: Observation, stack: contextlib.ExitStack) -> tuple[Restoration | None, str]:
    """The restoration with its gate shut; None if nothing is limited, or if it cannot be, with the reason."""
    shut = limited(before)
    if not shut:
        return None, ""
    try:
        restoration = stack.enter_context(Restoration(before.family, TABLES[before.table]))
        restoration.shut(shut)
    except UnsupportedError as error:
        return None, str(error)
    return restoration, ""


def _uncounted(places: Iterable[str], why_not: str) -> tuple[Outcome, ...]:
    return tuple(Outcome(connlimit.NAME, where, Fidelity.LOST, why_not) for where in places)
