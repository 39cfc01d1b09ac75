"""What is left of a quota across a replace: the kernel starts again from the rule's figure, so that has to be the rest.

The rule's own byte counter tells what has been used (net/netfilter/xt_quota.c takes the length of each packet that the
rule then counts), if no match behind the quota can still turn a packet away. How much of it had been counted when the
figure was written is in the ledger (nfkeep.keep.ledger).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import attrs

from nfkeep.keep import journal, rundir
from nfkeep.keep.ledger import Ledger
from nfkeep.keep.observe import Found, Observation, observe, observe_table
from nfkeep.keep.pairing import Pair, continued, same_quotas
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Counters, Family, Rule
from nfkeep.xtables import quota
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.image import Image
from nfkeep.xtables.tables import TableHandle

_LARGEST_PACKET = 65535
_WITHOUT_CONDITION = frozenset({"comment"})


@attrs.frozen(slots=True)
class Carried:
    """The quotas of one rule about to be written: `left` of `wholes` bytes; `seen`: its byte counter as it was read.

    `doubt`: why that is not exact; "" if it is. `begins`: the figures of a rule whose user gave it others, so that
    these are in force and nothing is written.
    """

    found: Found
    wholes: tuple[int, ...]
    left: tuple[int, ...]
    seen: int
    doubt: str = ""
    begins: tuple[int, ...] = ()


def carry(handle: TableHandle, now: Observation, pairs: Iterable[Pair]) -> tuple[Carried, ...]:
    """Write the rest of each quota into its rule in `handle`, whose content `now` is; the caller then commits it."""
    pairs = [(old, new) for old, new in pairs if new.figures]
    if not pairs:
        return ()
    ledger = Ledger()
    carried = []
    for old, new in pairs:
        used, counted = _used(old, new), new.rule.counters.bytes
        left = tuple(_left(match, used) for match in old.matches(quota.NAME))
        if not same_quotas(old, new):
            carried.append(Carried(new, old.wholes, left, counted, begins=new.figures))
            continue
        rule = quota.with_figures(new.rule, left)
        handle.rewrite(new.chain, new.position, rule)
        if counted:
            ledger.note(now.family, now.table, new.chain, rule, old.wholes)
        carried.append(Carried(attrs.evolve(new, rule=rule), old.wholes, left, counted, _doubt(old, new)))
    ledger.note_witnesses(now)
    ledger.save()
    return tuple(carried)


def used_since_written(found: Found) -> int:
    """Bytes that a rule has counted since its figures were written."""
    return found.rule.counters.bytes - _noted(found)


def _noted(found: Found) -> int:
    """What it had counted by then; 0 also if its counter was put to zero later."""
    counted = 0 if found.note is None else found.note.counted
    return counted if counted <= found.rule.counters.bytes else 0


def _used(old: Found, new: Found) -> int:
    before, after = old.rule.counters.bytes, new.rule.counters.bytes
    return after - _noted(old) if after >= before else used_since_written(old) + after  # put to zero meanwhile


def _left(match: Extension, used: int) -> int:
    figure = quota.quota(match)
    if quota.inverted(match):
        return 0 if used else figure
    return max(0, figure - used)


def from_the_beginning(now: Observation) -> dict[tuple[str, int], Rule]:
    """By chain and position, the rules of a table with the figure that their counter counts down from.

    Only those in which another one stands, as every replace of ours writes what is left.
    """
    return {
        (each.chain, each.position): quota.with_figures(each.rule, [figure + counted for figure in each.figures])
        for each in now.found
        if (counted := _noted(each)) and not any(map(quota.inverted, each.matches(quota.NAME)))
    }


def settle(tables: Iterable[tuple[Family, str]]) -> None:
    """Forget what does not hold any more of the rules of tables, if these are sure to stay as they are now.

    Not while a change is in flight: should it be refused or undone, or rules come back that somebody has taken out for
    a moment, the ledger has to know the earlier rules still.
    """
    if rundir.exists() and not journal.in_flight() and (ledger := Ledger()):
        for family, table in tables:
            ledger.forget_others(observe_table(family, table))
        with contextlib.suppress(rundir.NotWrittenError):  # the next one forgets it
            ledger.save()


def as_now(handle: TableHandle, earlier: Image) -> Image:
    """An earlier image of an open table, for `recount`: each quota rule looks, and has counted, as the same one now.

    `recount` pairs rules that are all the same by their order. So each has the counters of the one that goes on in its
    place, and none if that one is new.
    """
    if not handle.has((quota.NAME,)):
        return earlier
    olds, now = _then(handle, earlier), observe(handle)
    pairs = [(old, new) for old, new in continued(olds, now) if same_quotas(old, new)]
    went_on = {(new.chain, new.position): old.rule.counters for old, new in pairs}
    figures = {(old.chain, old.position): new.figures for old, new in pairs}
    in_chain: dict[tuple[str, bytes], list[Found]] = {}
    for new in now.found:
        in_chain.setdefault((new.chain, new.rule.entry), []).append(new)
    counted = {}
    for old in olds.found:
        if old.figures:
            place = old.chain, old.position
            rule = quota.with_figures(old.rule, figures.get(place, old.figures))
            if (same := in_chain.get((old.chain, rule.entry))) is not None:
                counted[place] = went_on.get((old.chain, same.pop(0).position), Counters()) if same else Counters()

    def edited(place: tuple[str, int], rule: Rule) -> Rule:
        if place in figures:
            rule = quota.with_figures(rule, figures[place])
        return attrs.evolve(rule, counters=counted.get(place, rule.counters))

    return earlier.edited(edited)


def _then(handle: TableHandle, earlier: Image) -> Observation:
    """An earlier image of a table, with what its rules had counted then."""
    with TableHandle(handle.name, handle.family) as then:
        then.load(earlier)  # which lets counters go on
        seen = observe(then)
    counters = {(chain, position): counted for chain, position, counted in earlier.counted()}
    found = (
        attrs.evolve(each, rule=attrs.evolve(each.rule, counters=counters[each.chain, each.position]))
        for each in seen.found
    )
    return attrs.evolve(seen, found=tuple(found))


def count_on(handle: TableHandle, now: Observation) -> None:
    """Let the quota rules in `handle`, of an earlier table, have the counters that those of `now` have.

    For the rules that are the same but for the figure, which each of our replaces rewrites.
    """
    counted: dict[tuple[str, bytes], list[Found]] = {}
    for found in now.found:
        if any(found.matches(quota.NAME)):
            counted.setdefault((found.chain, _without_figure(found)), []).append(found)
    for found in observe(handle).found:
        same = any(found.matches(quota.NAME)) and counted.get((found.chain, _without_figure(found)))
        if same and (ours := same.pop(0)).rule.counters.packets >= found.rule.counters.packets:
            handle.replace(found.chain, found.position, attrs.evolve(found.rule, counters=ours.rule.counters))


def _without_figure(found: Found) -> bytes:
    return quota.with_figures(found.rule, [0] * len(found.figures)).entry


def outcomes(handle: TableHandle, now: Observation, carried: Iterable[Carried]) -> list[Outcome]:
    """What became of each, once `handle` is committed."""
    return [_outcome(handle, now, each) for each in carried]


def _outcome(handle: TableHandle, now: Observation, each: Carried) -> Outcome:
    found = each.found
    where = now.where(found)
    if each.begins:
        detail = (
            f"begins with {_and(each.begins)} bytes, as the rule says now; "
            f"of {_and(each.wholes)} there were {_and(each.left)} left"
        )
        return Outcome(quota.NAME, where, Fidelity.APPROXIMATED, detail)
    counted = handle.replaced(found.chain, found.position)
    late = counted.bytes - each.seen if counted is not None else 0
    detail = _and(f"{left} of {whole}" for left, whole in zip(each.left, each.wholes, strict=True)) + " bytes are left"
    fidelity = Fidelity.RESTORED
    if each.doubt:
        fidelity = Fidelity.APPROXIMATED
        detail += each.doubt
    elif late > 0:
        fidelity = Fidelity.APPROXIMATED
        detail += f"; {late} bytes that passed during the change come off at the next one"
    elif any(0 < left <= _LARGEST_PACKET for left in each.left):
        detail += ", unless a packet larger than that had used it up"
    return Outcome(quota.NAME, where, fidelity, detail)


def _and(words: Iterable[int | str]) -> str:
    return " and ".join(map(str, words))


def _doubt(old: Found, new: Found) -> str:
    if any(map(quota.inverted, new.matches(quota.NAME))) or not _counts_all(new):
        return ", as far as the rule's counter tells: it does not count every packet that the quota does"
    if not _noted(old) and used_since_written(old) > min(old.figures):
        return ", but the rule has counted more than its quota: that was full again meanwhile, or its counter set"
    if _noted(old) and old.note is not None and not old.note.sure:
        return ", or less: counters of other rules were put to zero since the last change with nfkeep"
    return ""


def _counts_all(found: Found) -> bool:
    """Whether the rule counts whatever its quotas take: no match behind one can turn the packet away."""
    names = [match.name for match in found.entry.matches]
    return set(names[names.index(quota.NAME) + 1 :]) <= _WITHOUT_CONDITION
