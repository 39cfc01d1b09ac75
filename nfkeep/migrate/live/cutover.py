"""The move itself and the way back, in steps that each leave the old rules in force, or the new ones, or both.

A step is done before it is on record; whoever comes after a crash looks at the kernel, not at the record, to see how
far it is.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome, Report
from nfkeep.migrate.live import collection, copies, in_force, parking, record, ties, tokens
from nfkeep.migrate.live.agreement import agree
from nfkeep.migrate.live.beginning import Beginning
from nfkeep.migrate.live.commands import NFT_FAMILY, run_tool
from nfkeep.migrate.live.counting import Continuation, added, counted_between, final_counters
from nfkeep.migrate.live.host import read_host, source_of
from nfkeep.migrate.live.load import bring_in, wake
from nfkeep.migrate.live.plan import ON_THE_WAY
from nfkeep.migrate.live.record import APPLIED, APPLYING, CONFIRMED, ROLLED_BACK, Record
from nfkeep.migrate.live.reload import gone, kept_rules, reload, replaced, require_tools
from nfkeep.migrate.live.renew import renewed
from nfkeep.migrate.live.returned import Returned
from nfkeep.migrate.live.ties import Ties
from nfkeep.migrate.live.unchanged import Known
from nfkeep.migrate.live.used_quotas import UsedQuotas
from nfkeep.model import Family
from nfkeep.nft.batch import BatchSocket
from nfkeep.xtables.jiffies import tick_seconds
from nfkeep.xtables.tables import in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nfkeep.migrate.live.counting import GoneOn
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.plan import Plan


_TICKS = 3
"""The kernel counts the ages of elements in ticks, rounds each end of them, and rounds the time that is left up."""


@attrs.frozen(slots=True)
class Standing:
    """Which rules are in force: what the kernel says, beside the record.

    `old`: those of iptables; `new`: those of nft. `running`: whether the deadline is still to come. `tables`: the
    legacy ones that are in force; `parked`: those that are out of action.
    """

    record: Record | None
    old: bool
    new: bool
    tables: tuple[Name, ...] = ()
    parked: tuple[Name, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether the move is to be undone if nobody confirms it."""
        found = self.record
        return (
            found is not None and found.state == APPLIED and found.deadline is not None and found.boot == record.boot()
        )

    @property
    def running(self) -> bool:
        """Whether somebody waits to do so."""
        return self.limited and record.awaited()


def standing() -> Standing:
    """How far the move of this network namespace is."""
    found = record.load()
    speaking, parked = tuple(in_force.speaking()), tuple(in_force.parked())
    if found is None or found.boot != record.boot():  # what there is, is of boot scripts or of iptables itself
        host = read_host()
        old = bool(speaking or host.compat or host.twice)
        return Standing(found, old, found is not None and in_force.is_loaded(found), speaking, parked)
    old = bool(speaking) or copies.are_superfluous(found)
    return Standing(found, old, in_force.is_loaded(found), speaking, parked)


def both(family: Family) -> tuple[str, str | None]:
    """The rules of iptables, as they are or were before the move, and what nft has in their place; None before it."""
    found = record.load()
    if found is None or found.state not in (APPLIED, CONFIRMED):
        return read_host().rules.get(family, ""), None
    tables = [name for of, name in found.nft if of == NFT_FAMILY[family]]
    return record.kept(record.FILES[family]), "".join(
        run_tool(["nft", "list", "table", NFT_FAMILY[family], name]) for name in tables
    )


def check(plan: Plan, *, accept_losses: bool = False) -> None:
    """Raise NfkeepError where the plan has obstacles, or losses that are not accepted, or a move is under way."""
    there = record.load()
    if there is not None and there.state in (APPLYING, APPLIED) and there.boot == record.boot():
        raise NfkeepError(f"a move is {there.state} already: confirm it or roll it back first")
    if plan.obstacles:
        raise NfkeepError("; ".join(plan.obstacles))
    if plan.lost and not accept_losses:
        raise NfkeepError("some rules cannot be expressed in nft; `nfkeep-migrate plan` lists them")


@collection.put_off()
def apply(
    plan: Plan,
    tell: Callable[[str], None],
    *,
    seconds: float | None = None,
    watch: Callable[[], object] | None = None,
) -> Report:
    """Move the host: nft's rules come into force beside those of iptables, which are put out of action then.

    `tell` is told each step before it is done. `seconds`: to be undone after so long unless it is confirmed; `watch`
    starts who sees to that, once the move is on record and before anything is changed. The caller has the record's
    lock, and has called `check`. What fails is undone, and raised.
    """
    legacy = tuple(
        (table.name, family) for family, text in plan.host.rules.items() for table in source_of(text, family).tables
    )
    before = {record.FILES[family]: text for family, text in plan.host.rules.items()}
    record.begin({**before, record.IPSETS: plan.host.ipsets})
    replaced = tuple((*each, plan.host.nft_tables[each]) for each in plan.host.iptables_nft)
    copied = tuple(each for each in legacy if each[1] in plan.host.compat)
    done = Record(APPLYING, legacy, plan.tables, copies=copied, replaced=replaced)
    done = done.stepped("what is there is on the disk")
    record.save(done)
    try:
        if watch is not None:
            watch()
        return _moved(plan, done, seconds, tell)
    except BaseException:
        _undo(done)
        record.wake()
        raise


def _moved(plan: Plan, done: Record, seconds: float | None, tell: Callable[[str], None]) -> Report:
    tell("loading nft's rules, and counting connections again")
    fresh = bring_in(plan, lambda: _again(plan))
    for family, text in fresh.host.rules.items():
        if text != plan.host.rules[family]:  # then those are what is gone back to
            record.keep(record.FILES[family], text)
    known = Known(fresh.host.images)
    copies.make(fresh.host)
    known.look(done.copies)
    last: dict[Family, str] = {}
    beginning = Beginning(set(done.legacy) - set(done.copies))
    quotas = UsedQuotas(fresh)

    def come_into_force() -> None:
        last.update(copies.last_rules(fresh.host, done))
        wake(fresh, beginning.look)
        with contextlib.suppress(NfkeepError):  # then less is known of the moment
            agree(fresh, beginning)
        quotas.go_on(beginning)

    limited = parking.limited(done.legacy)
    report = parking.count_again(limited, come_into_force, known, beginning.taken_off) or Report()
    done = _save(done, "nft's rules are in force beside those of iptables, and connections are counted")
    keys = tokens.carry(fresh.keys)
    tell("putting the rules of iptables out of action")
    since = time.monotonic() + _TICKS * tick_seconds()  # what was loaded right before must not look as if it came then
    parking.park(done.legacy, known)
    continued = list(_go_on(fresh, known, last, beginning, since))
    deadline = None if seconds is None else time.monotonic() + seconds
    _save(done, "the rules of iptables are out of action", state=APPLIED, deadline=deadline)
    record.wake()
    amiss, beside = _counted(fresh, report)
    planned = (keys.get(each.where, each) for each in fresh.outcomes if each.kind != "counters")
    outcomes = [_as_counted(each, amiss) for each in quotas.outcomes(planned)]
    return Report((*continued, *beside, *outcomes), report.gate_seconds)


def _again(plan: Plan) -> Plan:
    """The plan of now: who was seen since, and who is still banned. Raises NfkeepError if it is of other tables.

    There is time for what nobody but people read.
    """
    fresh = renewed(plan, read_host(meanwhile=lambda _: record.keep("new.nft", plan.without_members)))
    if _shape(fresh) != _shape(plan):
        raise NfkeepError("the rules of iptables have other tables than when the move was planned: call it again")
    if came := fresh.lost_rules - plan.lost_rules:
        raise NfkeepError(f"a rule that cannot be expressed in nft has come since the move was planned: {min(came)}")
    return fresh


def _shape(plan: Plan) -> tuple[object, ...]:
    """What the record and nft's script of a plan are about: with another one, both would be of something else."""
    host = plan.host
    legacy = {(family, table.name) for family, text in host.rules.items() for table in source_of(text, family).tables}
    return plan.tables, legacy, set(host.iptables_nft), set(host.compat), set(host.twice)


def _go_on(
    plan: Plan,
    known: Known,
    last: Mapping[Family, str],
    beginning: Beginning,
    since: float,
) -> Iterator[Outcome]:
    """Have nft's counters go on where those of iptables stand still, and note what counts for what from `since` on.

    `known`: the tables as they stand still; `last`: the rules of iptables-nft, as they were in the end; `beginning`:
    what rules of iptables had counted when those of nft came into force.
    """
    tied = []
    with contextlib.ExitStack() as stack:
        counting = [
            (family, stack.enter_context(Continuation(translation, plan.host.rules[family], family)))
            for family, translation in plan.translations.items()
        ]
        for family, each in counting:
            try:
                images = (image for (_, of), image in known.images.items() if of is family)
                final = final_counters(images, without=parking.OWN)
                if family in last:
                    final = added(final, counted_between(plan.host.rules[family], last[family], family))
                fidelity, detail = _told(each.go_on(final, beginning.begun(family)))
                tied.append(ties.tie(each, final))
            except NfkeepError as error:  # no reason to undo the move
                fidelity = Fidelity.APPROXIMATED
                detail = f"some may have only what was counted until nft's rules were loaded, and since: {error}"
            yield Outcome("counters", f"{family}, all rules and policies", fidelity, detail)
        with contextlib.closing(BatchSocket()) as opened:
            ties.save(Ties(record.boot(), since, opened.generation(), tuple(tied)))


def _told(gone_on: GoneOn) -> tuple[Fidelity, str]:
    """How well the counters of a family have come through, and the figures."""
    detail = f"{gone_on.number} rules and policies go on"
    if gone_on.unknown:
        return Fidelity.APPROXIMATED, f"{detail}; {ON_THE_WAY}"
    if gone_on.missing:
        detail += f"; {len(gone_on.missing)} of them may lack packets that passed in the moment of the change"
        return Fidelity.APPROXIMATED, f"{detail}: {max(gone_on.missing)} each at the most"
    return Fidelity.RESTORED, detail


def _counted(plan: Plan, report: Report) -> tuple[dict[str, Outcome], list[Outcome]]:
    """What is amiss with each limit since its connections were counted again, by where it is; and with other rules.

    That is, with those that are neither of this move nor gone with it.
    """
    amiss = {o.where: o for o in report.outcomes if o.kind == "connlimit" and o.fidelity is not Fidelity.RESTORED}
    own = {f"table {family} {name}" for family, name in (*plan.tables, *plan.host.iptables_nft)}
    return amiss, [o for o in report.outcomes if o.kind in ("nftables", "counters") and o.where not in own]


def _as_counted(planned: Outcome, amiss: Mapping[str, Outcome]) -> Outcome:
    """What came of a connection limit, where the plan has what was to come of it."""
    if planned.kind != "connlimit" or planned.where not in amiss:
        return planned
    found = amiss[planned.where]
    return attrs.evolve(planned, fidelity=found.fidelity, detail=found.detail)


def check_confirm() -> Record:
    """The move that is to be made final. Raises NfkeepError where there is none, or nft does not have its rules."""
    done = record.load()
    if done is None or done.state not in (APPLIED, CONFIRMED) or done.finished:
        raise NfkeepError(f"there is no move to confirm: it is {'not begun' if done is None else done.state}")
    if not in_force.is_loaded(done):
        raise NfkeepError("nft's rules are not there any more, or others in their place: roll the move back")
    require_tools(done)
    return done


def confirm() -> list[Outcome]:
    """Take what is left of the rules of iptables out; what others have added to them is told. The caller has the lock.

    Until `finish` is called that may be done again: something may have stopped it in the middle.
    """
    done = _save(check_confirm(), "confirmed", state=CONFIRMED, deadline=None)
    record.wake()
    copied = {family for _, family in done.copies}  # the words of those are others
    lost = [each for of, text in kept_rules().items() if of not in copied for each in replaced(text, of)]
    parking.empty(_present(done))
    _save(done, "the rules of iptables are taken out")
    return lost


def finish() -> None:
    """Put on record that the move is final, with all that was to be done for the next boot."""
    if done := record.load():
        record.save(attrs.evolve(done, finished=True))


def begin_rollback() -> None:
    """Put on record that a confirmation is not final any more. Raises NfkeepError if there is nothing to roll back."""
    record.save(attrs.evolve(_to_roll_back(), finished=False))


def rollback() -> Report:
    """Put the rules of iptables back into force, as they were, and take nft's out. The caller has the lock."""
    report = _undo(_to_roll_back())
    record.wake()
    return report


def _to_roll_back() -> Record:
    done = record.load()
    if done is not None and done.state != ROLLED_BACK:
        return done
    if parked := in_force.parked():  # somebody has saved them so, and loaded them
        return Record(APPLIED, tuple(parked)).stepped("rules of iptables were found out of action")
    raise NfkeepError("there is no move to roll back")


def _undo(done: Record) -> Report:
    """From wherever the move is: old rules first, so that at no moment there are none."""
    outcomes: list[Outcome] = []
    if done.state == CONFIRMED:
        outcomes += reload(done, kept_rules(), parked=in_force.is_loaded(done))
        same = done.boot == record.boot()
        done = _save(
            done, "the rules of iptables are loaded from the disk", state=APPLIED, boot=record.boot(),
            replaced=done.replaced if same else (),
        )  # fmt: skip
    if copies.are_superfluous(done):
        parking.empty(copies.present(done))
    else:
        missing, told = gone(done)
        if missing:
            outcomes += [*told, *reload(done, missing, parked=in_force.is_loaded(done))]
    with Returned(done, _present(done)) as returned:
        returned.ahead()
        report = parking.unpark(_present(done), returned.stand_still, returned.spend) or Report()
        found = returned.finish()
        known = {(each.kind, each.where) for each in found}
        known |= {("nftables", f"table {family} {name}") for family, name in done.nft}  # no packet meets those by then
        found += [each for each in report.outcomes if (each.kind, each.where) not in known]
    if done.copies and not copies.are_superfluous(done):
        # From here on tables of the same names are iptables-nft's, also for whoever comes after a crash.
        done = _save(done, "nft's rules are taken out", nft=())
        found = copies.give_back(done, found)
        done = _save(copies.given_back(done), "iptables-nft has its rules again")
        parking.empty(copies.present(done))
    known = {(each.kind, each.where) for each in outcomes}
    outcomes += [each for each in found if (each.kind, each.where) not in known]
    _save(done, "rolled back: the rules of iptables are in force", state=ROLLED_BACK, deadline=None)
    return Report(tuple(outcomes), report.gate_seconds)


def _present(done: Record) -> list[tuple[str, Family]]:
    return [(table, family) for table, family in done.legacy if table in in_use(family)]


def _save(done: Record, what: str, **changes: object) -> Record:
    done = done.stepped(what, **changes)
    record.save(done)
    return done
