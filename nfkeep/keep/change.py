"""A change of legacy tables with their state kept: hold, shut, replace, restore, open, report.

The steps that transactions of our own, a run of the real iptables and any other program's change have in common.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.errors import CommitError, ConflictError, StateLossError, UnsupportedError
from nfkeep.keep import hold, journal, quotas
from nfkeep.keep.interrupts import deferred
from nfkeep.keep.journal import Flight, Note
from nfkeep.keep.observe import Found, Observation, StateKey, observe, observe_table
from nfkeep.keep.plan import limited, limits_of, make_plan
from nfkeep.keep.report import Fidelity, Outcome, Report
from nfkeep.keep.rundir import NotWrittenError
from nfkeep.model import Family
from nfkeep.xtables import connlimit
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.image import Image
from nfkeep.xtables.quota import NAME as QUOTA
from nfkeep.xtables.tables import TABLES, TableHandle, in_use

if TYPE_CHECKING:
    from nfkeep.keep.passage import TakenOff
    from nfkeep.keep.restore import Restoration

Holds = Sequence[tuple[Family, StateKey, Extension]]
"""Named states, each with an extension that names it."""

_TRIES = 10


@attrs.frozen(slots=True)
class Replaced:
    """A table as the kernel has it after its replace, and what became of the quotas in it.

    `quotas` is None where somebody else has written the table, so that they are full again.
    """

    after: Observation
    quotas: tuple[Outcome, ...] | None = ()


@attrs.frozen(slots=True)
class Change:
    """One table of a change. `replace` gives None if the table was not replaced at all, and raises if it cannot be.
    One of several tells the journal, right before, what the table is about to become.

    `image`: the table as it was, for the journal. `revert` puts the table back as it was, counters going on; without
    it, what is replaced stays replaced. `taken_off` is told what opening packets had raised counters by.
    """

    before: Observation
    image: Image
    replace: Callable[[Note], Replaced | None]
    revert: Callable[[], None] | None = None
    taken_off: TakenOff | None = None

    @property
    def family(self) -> Family:
        """The table's family."""
        return self.before.family

    @property
    def table(self) -> str:
        """The table's name."""
        return self.before.table


def apply(
    changes: Sequence[Change],
    holds: Holds = (),
    *,
    keep_holds: bool = True,
    refuse: bool = False,
    together: bool = True,
    recount: bool = True,
) -> Report:
    """Replace the tables between gates and restoration: all of them, or none if one fails.

    `holds` are placed before, and taken down again where the new tables name the state themselves. Where this host
    has no means to count flows again, the change goes on and the counts are reported lost; with `refuse`,
    StateLossError is raised before anything is changed. Without `recount` it goes on like that in any case. Unless
    `together`, a change that was cut off is not undone. The caller has the xtables lock.
    """
    flight = Flight(
        tuple(change.image for change in changes), tuple((family, key) for family, key, _ in holds), together
    )
    with deferred(), journal.written(flight) as note:
        report = carry_out(changes, holds, note, keep_holds=keep_holds, refuse=refuse, recount=recount)
    quotas.settle((change.family, change.table) for change in changes)
    return report


def carry_out(
    changes: Sequence[Change],
    holds: Holds,
    note: Note,
    *,
    keep_holds: bool = True,
    refuse: bool = False,
    recount: bool = True,
) -> Report:
    """The same for a change that is on record already."""
    obsolete, told = _place(holds, changes)
    try:
        with contextlib.ExitStack() as stack:
            befores = [change.before for change in changes]
            gates = _shut_all(befores, stack) if recount else [(None, "nobody has asked for it")] * len(changes)
            _refuse_uncounted(changes, gates, refuse)
            replaced, renewed = _renew(changes, _replace_all(changes, gates, note))
            report = put_back(changes, gates, replaced, obsolete, keep_holds)
    except CommitError as error:
        if error.applied:
            obsolete = {}  # better to hold too much than to lose a list
        raise
    finally:
        for family, keys in obsolete.items():
            if keys:
                told += hold.take_down(family, keys)
    return attrs.evolve(report, outcomes=tuple(dict.fromkeys((*report.outcomes, *renewed, *told))))


Gate: TypeAlias = "tuple[Restoration | None, str]"
"""The restoration with its gate shut; None if nothing is limited, or if it cannot be, with the reason."""


def _place(holds: Holds, changes: Sequence[Change]) -> tuple[dict[Family, set[StateKey]], list[Outcome]]:
    """Place the holds; all keys that are to be taken down if nobody needs them, for each family concerned."""
    placed: dict[Family, set[StateKey]] = {change.family: set() for change in changes}
    told: list[Outcome] = []
    for family, keys in placed.items():
        states = [(key, extension) for of, key, extension in holds if of is family]
        told += hold.place(family, states, beside={each.table for each in changes if each.family is family})
        keys.update(key for key, _ in states)
    return placed, told


def shut(before: Observation, stack: contextlib.ExitStack) -> Gate:
    """Hold off the packets that a table's limits can count, until the stack is left at the latest."""
    return _shut_all([before], stack)[0]


def rehearse(before: Observation) -> None:
    """Do what `shut` is slow with the first time, and hold nothing off; where it cannot be shut, nothing."""
    from nfkeep.keep.restore import Restoration  # not by those whose tables limit nothing

    with contextlib.suppress(UnsupportedError), Restoration(before.family, TABLES[before.table]) as restoration:
        restoration.rehearse(limited(before))


def _shut_all(befores: Sequence[Observation], stack: contextlib.ExitStack) -> list[Gate]:
    """The same for several; each lets the opening packets of the others through."""
    gates: list[Gate] = []
    for before in befores:
        try:
            gates.append((_stands(before, stack) if limited(before) else None, ""))
        except UnsupportedError as error:
            gates.append((None, str(error)))
    restorations = [restoration for restoration, _ in gates if restoration is not None]
    for at, (restoration, _) in enumerate(gates):
        try:
            if restoration is not None:
                restoration.shut(limited(befores[at]), beside=restorations)
        except UnsupportedError as error:
            gates[at] = None, str(error)
    return gates


def _stands(before: Observation, stack: contextlib.ExitStack) -> Restoration:
    from nfkeep.keep.restore import Restoration

    return stack.enter_context(Restoration(before.family, TABLES[before.table]))


def _refuse_uncounted(changes: Sequence[Change], gates: Sequence[Gate], refuse: bool) -> None:
    for change, (_, why_not) in zip(changes, gates, strict=True):
        if why_not and refuse:
            raise StateLossError(_uncounted(limits_of(change.before), why_not))


def _replace_all(changes: Sequence[Change], gates: Sequence[Gate], note: Note) -> list[Replaced | None]:
    """Replace one table after the other; if one fails, those before it are put back, and what they had counted too."""
    replaced: list[Replaced | None] = []
    try:
        for change in changes:
            replaced.append(change.replace(note))
    except BaseException:
        done = [each for each in zip(changes, gates, replaced, strict=False) if each[2] is not None]
        with contextlib.ExitStack() as all_of_them:  # also when one of them fails
            for change, _, _ in done:
                assert change.revert is not None, "only a single change has no way back"
                all_of_them.callback(change.revert)
        back = [_now(change) for change, _, _ in done]
        put_back([change for change, _, _ in done], [gate for _, gate, _ in done], back, {}, keep_holds=True)
        raise
    return replaced


def _renew(changes: Sequence[Change], replaced: list[Replaced | None]) -> tuple[list[Replaced | None], list[Outcome]]:
    """Where a rule is back with another configuration than what was held for it, give it that."""
    told: list[Outcome] = []
    for family in {change.family: None for change in changes}:
        now = [None if each is None or each.after.family is not family else each.after for each in replaced]
        if unlike := hold.unlike(family, filter(None, now)):
            tables = hold.renew(family, unlike)
            told += hold.lost(family, unlike)
            replaced = [
                attrs.evolve(each, after=observe_table(family, after.table))
                if each is not None and after is not None and after.table in tables
                else each
                for each, after in zip(replaced, now, strict=True)
            ]
    return replaced, told


def _now(change: Change) -> Replaced:
    """A table that was put back: its quotas are full."""
    return Replaced(observe_table(change.family, change.table), quotas=None)


def put_back(
    changes: Sequence[Change],
    gates: Sequence[Gate],
    replaced: Sequence[Replaced | None],
    obsolete: dict[Family, set[StateKey]],
    keep_holds: bool = True,
    *,
    unseen: bool = False,
) -> Report:
    """Put every state back, then open the gates. Of the holds, those that are needed are no longer `obsolete`.

    `unseen`: others may have replaced the tables several times.
    """
    outcomes: list[Outcome] = []
    needed: dict[Family, set[StateKey]] = {family: set() for family in obsolete}
    gate_seconds = 0.0
    written = [
        None if each is None else _with_quotas(change.before, each)
        for change, each in zip(changes, replaced, strict=True)
    ]
    for change, (restoration, why_not), known in zip(changes, gates, written, strict=True):
        if known is None:
            continue
        after, of_quotas = known
        plan = make_plan(change.before, after, _others(change, written, changes), hold=keep_holds, unseen=unseen)
        if restoration is not None:
            outcomes += restoration.count_again(plan, change.taken_off)
            restoration.open_gate()
            gate_seconds = max(gate_seconds, restoration.gate_seconds)
        else:
            outcomes += _uncounted((limit.where for limit in plan.limits), why_not)
        outcomes += (*plan.outcomes, *of_quotas)
        if change.family in obsolete:
            obsolete[change.family] |= plan.returned
            needed[change.family].update(key for key, _ in plan.holds)
    for family, keys in needed.items():
        obsolete[family] -= keys
    return Report(tuple(dict.fromkeys(outcomes)), gate_seconds)


def _with_quotas(before: Observation, each: Replaced) -> tuple[Observation, tuple[Outcome, ...]]:
    """Have what is left of the quotas written into a table that somebody else has written."""
    if each.quotas is not None:
        return each.after, each.quotas
    plan = make_plan(before, each.after)
    if not plan.quotas:
        return each.after, ()
    for tries_left in reversed(range(_TRIES)):
        with TableHandle(before.table, before.family) as handle:
            now = observe(handle)
            pairs, outcomes = make_plan(before, now).quotas, None
            try:
                carried = quotas.carry(handle, now, pairs)
            except NotWrittenError as error:  # the handle has what is left all the same
                outcomes = tuple(_unnoted(now, new, error) for _, new in pairs if any(new.matches(QUOTA)))
            try:
                handle.commit()
            except ConflictError:
                if not tries_left:
                    raise
                continue
            if outcomes is None:
                outcomes = tuple(quotas.outcomes(handle, now, carried))
            return observe_table(before.family, before.table), outcomes
    raise AssertionError("the last try returns or raises")


def _unnoted(now: Observation, found: Found, error: NotWrittenError) -> Outcome:
    detail = f"what is left is in force, but at the next change the bytes counted so far may come off again: {error}"
    return Outcome(QUOTA, now.where(found), Fidelity.APPROXIMATED, detail)


def _others(
    change: Change, written: Sequence[tuple[Observation, tuple[Outcome, ...]] | None], changes: Sequence[Change]
) -> tuple[Observation, ...]:
    """The family's other tables, as they are now."""
    if not any(change.before.stateful()):
        return ()
    known = {
        other.table: after[0]
        for other, after in zip(changes, written, strict=True)
        if after is not None and other.family is change.family
    }
    return tuple(
        known[name] if name in known else observe_table(change.family, name)
        for name in in_use(change.family)
        if name != change.table
    )


def _uncounted(places: Iterable[str], why_not: str) -> tuple[Outcome, ...]:
    return tuple(Outcome(connlimit.NAME, where, Fidelity.LOST, why_not) for where in places)
