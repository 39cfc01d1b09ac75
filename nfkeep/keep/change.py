"""One change of one legacy table with its state kept: lock, observe, plan, replace, restore, verify, report.

The steps that a transaction of our own and a run of the real iptables have in common.
"""

from __future__ import annotations

from collections.abc import Callable

from nfkeep.errors import CommitError
from nfkeep.keep import hold
from nfkeep.keep.interrupts import deferred
from nfkeep.keep.observe import Observation, StateKey, observe
from nfkeep.keep.plan import Plan, limited, make_plan
from nfkeep.keep.report import Outcome, Report
from nfkeep.keep.restore import Restoration
from nfkeep.model import Family
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
) -> Report:
    """Run `replace` between gate and restoration.

    It changes the kernel's table and gives the table as it is then, and whether it was replaced at all. `holds` are
    placed before and taken down again where the new table names the state itself. The caller has the xtables lock.
    """
    family, table = before.family, before.table
    with deferred():
        hold.place(family, holds, beside=table)
        placed = {key for key, _ in holds}
        try:
            if limited(before):
                outcomes, gate_seconds, plan = _guarded(before, replace, others, keep_holds)
            else:
                after, replaced = replace()
                plan = make_plan(before, after, others, hold=keep_holds) if replaced else None
                outcomes, gate_seconds = list(plan.outcomes) if plan else [], 0.0
        except CommitError as error:
            if not error.applied:
                hold.take_down(family, placed)
            raise
        except BaseException:
            hold.take_down(family, placed)
            raise
        needed = {key for key, _ in plan.holds} if plan else set()
        returned = plan.returned if plan else frozenset()
        if obsolete := (placed - needed) | returned:
            hold.take_down(family, obsolete)
    return Report(tuple(outcomes), gate_seconds)


def _guarded(
    before: Observation,
    replace: Callable[[], tuple[Observation, bool]],
    others: tuple[Observation, ...],
    keep_holds: bool,
) -> tuple[list[Outcome], float, Plan | None]:
    with Restoration(before.family, TABLES[before.table]) as restoration:
        restoration.shut(limited(before))
        after, replaced = replace()
        if not replaced:
            return [], 0.0, None
        plan = make_plan(before, after, others, hold=keep_holds)
        outcomes = [*restoration.count_again(plan), *plan.outcomes]
        restoration.open_gate()
        return outcomes, restoration.gate_seconds, plan
