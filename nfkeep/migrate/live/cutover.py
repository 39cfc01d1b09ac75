"""The move itself and the way back, in steps that each leave the old rules in force, or the new ones, or both.

A step is done before it is on record; whoever comes after a crash looks at the kernel, not at the record, to see how
far it is.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome, Report
from nfkeep.migrate.live import collection, parking, record
from nfkeep.migrate.live.carried import carried_lists
from nfkeep.migrate.live.counting import Continuation, final_counters
from nfkeep.migrate.live.host import read_host, run_nft, run_tool, save_text, source_of
from nfkeep.migrate.live.load import bring_in, wake
from nfkeep.migrate.live.plan import NFT_FAMILY, ON_THE_WAY
from nfkeep.migrate.live.record import APPLIED, APPLYING, CONFIRMED, ROLLED_BACK, Record
from nfkeep.migrate.live.recount import counts_anew
from nfkeep.migrate.live.renew import renewed
from nfkeep.model import Family
from nfkeep.nft.tables import list_tables
from nfkeep.xtables.recent import DIRECTORY
from nfkeep.xtables.tables import in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nfkeep.migrate.live.plan import Plan

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_FILES = {Family.IPV4: "ipv4.rules", Family.IPV6: "ipv6.rules"}
_SINCE = "go on where they were when nft took over: what it has counted since is not added"


@attrs.frozen(slots=True)
class Standing:
    """Which rules are in force: what the kernel says, beside the record.

    `old`: those of iptables; `new`: those of nft. `running`: whether the deadline is still to come.
    """

    record: Record | None
    old: bool
    new: bool

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
    if found is None:
        return Standing(None, bool(read_host().rules), False)
    old = any(not parking.is_parked(*name) for name in _present(found))
    return Standing(found, old and found.state != CONFIRMED, _is_loaded(found))


def both(family: Family) -> tuple[str, str | None]:
    """The rules of iptables, as they are or were before the move, and what nft has in their place; None before it."""
    found = record.load()
    if found is None or found.state not in (APPLIED, CONFIRMED):
        return save_text(family), None
    tables = [name for of, name in found.nft if of == NFT_FAMILY[family]]
    return record.kept(_FILES[family]), "".join(
        run_tool(["nft", "list", "table", NFT_FAMILY[family], name]) for name in tables
    )


def check(plan: Plan, *, accept_losses: bool = False) -> None:
    """Raise NfkeepError where the plan has obstacles, or losses that are not accepted, or a move is under way."""
    if (there := record.load()) is not None and there.state in (APPLYING, APPLIED):
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

    `seconds`: to be undone after so long unless it is confirmed; `watch` starts who sees to that, once the move is on
    record and before anything is changed. The caller has the record's lock, and has called `check`. What fails is
    undone, and raised.
    """
    legacy = tuple(
        (table.name, family) for family, text in plan.host.rules.items() for table in source_of(text, family).tables
    )
    before = {_FILES[family]: text for family, text in plan.host.rules.items()}
    record.begin({**before, "ipset.save": plan.host.ipsets, "new.nft": plan.without_members})
    done = Record(APPLYING, legacy, plan.tables).stepped("what is there is on the disk")
    record.save(done)
    try:
        if watch is not None:
            watch()
        return _moved(plan, done, seconds, tell)
    except BaseException:
        _undo(done)
        raise


def _moved(plan: Plan, done: Record, seconds: float | None, tell: Callable[[str], None]) -> Report:
    tell("loading nft's rules, and counting connections again")
    fresh = bring_in(plan, lambda: _again(plan))
    report = parking.count_again(parking.limited(done.legacy), lambda: wake(fresh))
    done = _save(done, "nft's rules are in force beside those of iptables, and connections are counted")
    tell("putting the rules of iptables out of action")
    parked = parking.park(done.legacy, counts_anew(done.nft))
    continued = list(_go_on(fresh))
    deadline = None if seconds is None else time.monotonic() + seconds
    _save(done, "the rules of iptables are out of action", state=APPLIED, deadline=deadline)
    record.wake()
    counted = {o.where: o for o in (report.outcomes if report else ()) if o.kind == "connlimit"}
    outcomes = [_as_counted(each, counted) for each in fresh.outcomes if each.kind != "counters"]
    return Report((*continued, *outcomes), sum(each.gate_seconds for each in (report, parked) if each))


def _again(plan: Plan) -> Plan:
    """The plan of now: who was seen since, and who is still banned. Raises NfkeepError if it is of other tables."""
    fresh = renewed(plan, read_host())
    if fresh.tables != plan.tables:
        raise NfkeepError("the rules of iptables have other tables than when the move was planned: call it again")
    return fresh


def _go_on(plan: Plan) -> Iterator[Outcome]:
    """Have nft's counters go on where those of iptables stand still."""
    with contextlib.ExitStack() as stack:
        counting = [
            (family, stack.enter_context(Continuation(translation, plan.host.rules[family], family)))
            for family, translation in plan.translations.items()
        ]
        for family, each in counting:
            try:
                number = each.go_on(final_counters(family, without=parking.OWN))
                detail = f"{number} rules and policies go on; {ON_THE_WAY}"
            except NfkeepError as error:  # no reason to undo the move
                detail = f"some may have only what was counted until nft's rules were loaded, and since: {error}"
            yield Outcome("counters", f"{family}, all rules and policies", Fidelity.APPROXIMATED, detail)


def _as_counted(planned: Outcome, counted: dict[str, Outcome]) -> Outcome:
    """What came of a connection limit, where the plan has what was to come of it."""
    if planned.kind != "connlimit":
        return planned
    worse = [each for each in counted.values() if each.fidelity is not Fidelity.RESTORED]
    return attrs.evolve(planned, fidelity=worse[0].fidelity, detail=worse[0].detail) if worse else planned


def confirm() -> None:
    """Make the move final: what is left of the rules of iptables is taken out. The caller has the lock."""
    done = record.load()
    if done is None or done.state != APPLIED:
        raise NfkeepError(f"there is no move to confirm: it is {'not begun' if done is None else done.state}")
    if not _is_loaded(done):
        raise NfkeepError("nft's rules are not there any more: roll the move back")
    done = _save(done, "confirmed", state=CONFIRMED, deadline=None)
    record.wake()
    parking.empty(_present(done))
    _save(done, "the rules of iptables are taken out")


def rollback() -> Report:
    """Put the rules of iptables back into force, as they were, and take nft's out. The caller has the lock."""
    done = record.load()
    if done is None or done.state == ROLLED_BACK:
        raise NfkeepError("there is no move to roll back")
    report = _undo(done)
    record.wake()
    return report


def _undo(done: Record) -> Report:
    """From wherever the move is: old rules first, so that at no moment there are none."""
    if done.state == CONFIRMED:
        _reload(done)
    outcomes = []
    if _is_loaded(done):
        outcomes += [*_bring_back_addresses(done), Outcome("counters", "all rules", Fidelity.APPROXIMATED, _SINCE)]
    report = parking.unpark(_present(done), lambda: _unload(done)) or Report()
    outcomes += report.outcomes
    _save(done, "rolled back: the rules of iptables are in force", state=ROLLED_BACK, deadline=None)
    return Report(tuple(outcomes), report.gate_seconds)


def _unload(done: Record) -> None:
    run_nft("".join(f"table {family} {name}\ndelete table {family} {name}\n" for family, name in done.nft))


def _reload(done: Record) -> None:
    """The rules of iptables from the disk, by its own tool: after `confirm` there are none in the kernel."""
    for family, name in _FILES.items():
        text = record.kept(name)
        command = "ip6tables-legacy-restore" if family is Family.IPV6 else "iptables-legacy-restore"
        if text:
            run_tool([command, "-c", "-w", "60"], text)
    parking.count_again(parking.limited(done.legacy), lambda: None)
    _save(done, "the rules of iptables are loaded from the disk")


def _bring_back_addresses(done: Record) -> list[Outcome]:
    """Who came into nft's sets meanwhile, into the lists of the recent match."""
    outcomes = []
    for family, file in _FILES.items():
        text = record.kept(file)
        if not text:
            continue
        for name, table, sets in carried_lists(text, family):
            texts = (each for set_name in sets.names() for each in _addresses(NFT_FAMILY[family], table, set_name))
            new = sorted(set(map(ipaddress.ip_address, texts)) - _listed(name))
            for address in new:
                _add(name, address)
            if new:
                detail = f"{len(new)} addresses that came meanwhile, as if they were seen now"
                outcomes.append(Outcome("recent", f"{family}, list {name}", Fidelity.APPROXIMATED, detail))
    return outcomes


def _addresses(family: str, table: str, name: str) -> Iterable[str]:
    try:
        listing = json.loads(run_tool(["nft", "-j", "list", "set", family, table, name]))
    except NfkeepError:  # the table is not there, or was not yet
        return
    for each in listing["nftables"]:
        for element in each.get("set", {}).get("elem", ()):
            yield element["elem"]["val"] if isinstance(element, dict) else element


def _listed(name: str) -> set[Address]:
    try:
        with open(f"{DIRECTORY}/{name}", encoding="ascii") as file:  # it has every zero of an IPv6 address, nft has not
            return {ipaddress.ip_address(line.split()[0].removeprefix("src=")) for line in file}
    except FileNotFoundError:
        return set()


def _add(name: str, address: Address) -> None:
    with open(f"{DIRECTORY}/{name}", "w", encoding="ascii") as file:
        file.write(f"+{address}\n")


def _present(done: Record) -> list[tuple[str, Family]]:
    return [(table, family) for table, family in done.legacy if table in in_use(family)]


def _is_loaded(done: Record) -> bool:
    there = {(table.family, table.name) for table in list_tables() if not table.dormant}
    return bool(done.nft) and all(each in there for each in done.nft)


def _save(done: Record, what: str, **changes: object) -> Record:
    done = done.stepped(what, **changes)
    record.save(done)
    return done
