"""The end of a transaction: its tables are written, all or none, with the state kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import StateLossError
from nfkeep.keep import quotas
from nfkeep.keep.change import Change, Replaced, apply
from nfkeep.keep.editing import TableEdits
from nfkeep.keep.hold import lost as lost_with_hold
from nfkeep.keep.hold import take_down, unlike
from nfkeep.keep.journal import Note
from nfkeep.keep.observe import Observation, observe_table
from nfkeep.keep.plan import make_plan
from nfkeep.keep.report import Outcome, Report
from nfkeep.xtables import quota
from nfkeep.xtables.tables import in_use

if TYPE_CHECKING:
    from nfkeep.keep.passage import TakenOff

NOTHING = Report()
"""Of a change that concerns no state."""


@attrs.frozen(slots=True)
class Along:
    """What else is to be changed together with the tables, once the gates are shut.

    `before` the first table is replaced: what it raises is raised, and nothing is changed. `after` the last one was,
    and before anything is counted again: it must not raise. `recount`: whether anything is, and gates are shut for it;
    without that, counts of connections are lost. `taken_off` is told what opening packets had raised counters by.
    """

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    recount: bool = True
    taken_off: TakenOff | None = None

    def __bool__(self) -> bool:
        return self.before is not None or self.after is not None or not self.recount

    def around(self, changes: Sequence[Change]) -> list[Change]:
        """The changes, with this before and after them."""
        found = [attrs.evolve(each, taken_off=self.taken_off) for each in changes]
        if self.before is not None:
            found[0] = attrs.evolve(found[0], replace=_after(self.before, found[0].replace))
        if self.after is not None:
            found[-1] = attrs.evolve(found[-1], replace=_before(found[-1].replace, self.after))
        return found


ALONE = Along()


def commit(tables: Sequence[TableEdits], *, hold: bool, refuse: bool, along: Along = ALONE) -> Report:
    """Write what has changed. After ConflictError or StateLossError nothing has; of CommitError see `applied`."""
    if len(tables) == 1 and not along and not tables[0].keeps_state:
        if tables[0].changed:
            tables[0].write()
        return NOTHING
    changed = [each for each in tables if each.changed]
    if not changed:
        return NOTHING
    afters = [each.observe_after() for each in changed]
    if len(changed) == 1 and not along and afters[0] is None:
        changed[0].write()
        return NOTHING
    befores = [each.before or _stateless(each) for each in changed]
    wanted = [after or _stateless(each) for each, after in zip(changed, afters, strict=True)]
    plans = [
        make_plan(before, after, _others(after, wanted), hold=hold)
        for before, after in zip(befores, wanted, strict=True)
    ]
    anew = {
        family: unlike(family, [each for each in wanted if each.family is family])
        for family in {each.family: None for each in wanted}
    }
    told = [outcome for family, states in anew.items() for outcome in lost_with_hold(family, states)]
    if refuse and (lost := Report((*told, *(o for plan in plans for o in (*plan.outcomes, *plan.feared)))).lost):
        raise StateLossError(lost)
    holds = [
        (before.family, key, extension)
        for at, (before, after) in enumerate(zip(befores, wanted, strict=True))
        # In the moment of this replace the tables behind it are as they were: a list may be on its way to one of them.
        for key, extension in make_plan(before, after, _others(after, [*wanted[:at], *befores[at:]]), hold=hold).holds
    ]
    changes = [_change(each, before) for each, before in zip(changed, befores, strict=True)]
    if told:

        def give_way() -> None:
            for family, states in anew.items():  # a hold in one of these tables has to wait until they are replaced
                told.extend(take_down(family, states, but={each.table for each in wanted if each.family is family}))

        changes[0] = attrs.evolve(changes[0], replace=_after(give_way, changes[0].replace))
    report = apply(along.around(changes), holds, keep_holds=hold, refuse=refuse, recount=along.recount)
    return attrs.evolve(report, outcomes=tuple(dict.fromkeys((*report.outcomes, *told)))) if told else report


def _change(edits: TableEdits, before: Observation) -> Change:
    def replace(note: Note) -> Replaced:
        if not edits.keeps_state:
            note(edits.handle.planned)
            edits.write()
            return Replaced(_stateless(edits))
        outcomes: tuple[Outcome, ...] = ()
        if edits.handle.has((quota.NAME,)) and (after := edits.observe_after()) is not None:
            carried = quotas.carry(edits.handle, after, make_plan(before, after).quotas)
            note(edits.handle.planned)
            edits.write()
            outcomes = tuple(quotas.outcomes(edits.handle, after, carried))
        else:  # the gates are shut: what takes long in a large table is not done for nothing
            note(edits.handle.planned)
            edits.write()
        # What counts is what the kernel has now, should somebody without the lock have followed at once.
        return Replaced(observe_table(edits.family, edits.table), outcomes)

    return Change(before, edits.handle.image(), replace, edits.handle.revert)


def _after(first: Callable[[], None], replace: Callable[[Note], Replaced | None]) -> Callable[[Note], Replaced | None]:
    def both(note: Note) -> Replaced | None:
        first()
        return replace(note)

    return both


def _before(replace: Callable[[Note], Replaced | None], then: Callable[[], None]) -> Callable[[Note], Replaced | None]:
    def both(note: Note) -> Replaced | None:
        replaced = replace(note)
        then()
        return replaced

    return both


def _stateless(edits: TableEdits) -> Observation:
    return Observation(edits.table, edits.family, (), ())


def _others(after: Observation, wanted: Sequence[Observation]) -> Iterator[Observation]:
    """The family's other tables, as they will be."""
    known = {each.table: each for each in wanted if each.family is after.family}
    for name in in_use(after.family):
        if name != after.table:
            yield known.get(name) or observe_table(after.family, name)
