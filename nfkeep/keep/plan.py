"""From a table before and after a change to what has to be done for its state. Pure: values in, a value out.

Which rule of the new table continues which of the old one is for `nfkeep.keep.pairing` to say.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from nfkeep.conntrack.select import Selector
from nfkeep.keep.observe import Found, Observation, StateKey, state_key
from nfkeep.keep.pairing import Pair, continued
from nfkeep.keep.paths import Reach, can_meet, conditions
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Hook
from nfkeep.xtables import connlimit, limit, quota, recent, statistic
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.opening import asks_state
from nfkeep.xtables.stateful import configuration, disturbed_by_packets, extensions
from nfkeep.xtables.tables import TABLES

#: The hooks that packets pass on their way to one, itself included.
ON_THE_WAY = {
    Hook.PREROUTING: (Hook.PREROUTING,),
    Hook.INPUT: (Hook.PREROUTING, Hook.INPUT),
    Hook.FORWARD: (Hook.PREROUTING, Hook.FORWARD),
    Hook.OUTPUT: (Hook.OUTPUT,),
    Hook.POSTROUTING: (Hook.PREROUTING, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING),
}


@attrs.frozen(slots=True)
class Limit:
    """A connlimit rule of the new table whose count is to be put back, by packets that `selectors` choose.

    `hazard`: what such packets might meet that would keep some flows from being counted, as far as rules tell without
    looking at the flows; "" for nothing.
    """

    where: str
    selectors: tuple[Selector, ...]
    hazard: str = ""


@attrs.frozen(slots=True)
class Plan:
    """What to do: `limits` to count again, `quotas` of which the rest is to be written (the rule that had it, and that
    which goes on), named states to hold, and what is known about everything else.

    `needs_new`: some rule on the way asks for a conntrack state, so opening packets must really be NEW.
    """

    limits: tuple[Limit, ...]
    quotas: tuple[Pair, ...]
    holds: tuple[tuple[StateKey, Extension], ...]
    returned: frozenset[StateKey]
    outcomes: tuple[Outcome, ...]
    needs_new: bool

    @property
    def feared(self) -> tuple[Outcome, ...]:
        """The counts that may be lost, in whole or in part, depending on the flows that there are."""
        return tuple(
            Outcome(connlimit.NAME, limit.where, Fidelity.LOST, f"opening packets may meet {limit.hazard}")
            for limit in self.limits
            if limit.hazard
        )


_IDLE_TIMER = "idletimer"  # idletimer_tg_checkentry() in net/netfilter/xt_IDLETIMER.c


def make_plan(
    before: Observation,
    after: Observation,
    others: Iterable[Observation] = (),
    *,
    hold: bool = True,
    unseen: bool = False,
) -> Plan:
    """Plan for a replace that turns `before` into `after`; `others` are the family's other tables as they are.

    `unseen`: there may have been several, with other tables in between.
    """
    others = tuple(others)
    limits: list[Limit] = []
    left: list[Pair] = []
    outcomes: list[Outcome] = []
    reach, reached_before = Reach(after), Reach(before)
    hazards = _hazards(reach, others)
    for old, new in continued(before, after):
        if any(new.matches(quota.NAME)):
            left.append((old, new))
        for extension in extensions(new.entry):
            if extension.name == connlimit.NAME:
                if reach.selectors(new) and not reached_before.selectors(old):
                    continue  # nothing led to the rule, so there was nothing in its count
                planned = _limit(reach, new, hazards)
                if isinstance(planned, Limit):
                    limits.append(planned)
                else:
                    outcomes.append(planned)
            elif (outcome := _in_rule(after, new, extension)) is not None:
                outcomes.append(outcome)
    elsewhere = {key for other in others for key in other.named(holds=False)}
    named, still_named = before.named(), after.named()
    gone = {key: e for key, e in named.items() if key not in still_named and key not in elsewhere}
    outcomes += _named(before, after, elsewhere, unseen=unseen)
    outcomes += [_gone(before, key, hold=hold and can_hold(key, unseen=unseen)) for key in gone]
    return Plan(
        tuple(limits),
        tuple(left),
        tuple((key, e) for key, e in gone.items() if hold and can_hold(key)),
        frozenset(after.named(holds=False).keys() - named.keys()),
        tuple(outcomes),
        any(asks_state(each.entry) for seen in (after, *others) for each in seen.found),
    )


def limits_of(observation: Observation) -> tuple[str, ...]:
    """Where the connlimit rules of a table stand, in words."""
    return tuple(observation.where(each) for each in observation.found if any(each.matches(connlimit.NAME)))


def limited(observation: Observation) -> tuple[Selector, ...]:
    """The opening packets that any connlimit rule of a table can count: those to be held off during a change."""
    if observation.table == "nat":
        return ()
    reach = Reach(observation)
    return tuple(
        selector
        for each in observation.found
        if any(each.matches(connlimit.NAME))
        for selector in reach.selectors(each)
    )


def _limit(reach: Reach, found: Found, hazards: tuple[_Hazard, ...]) -> Limit | Outcome:
    after = reach.observation
    where = after.where(found)

    def lost(reason: str) -> Outcome:
        return Outcome(connlimit.NAME, where, Fidelity.LOST, reason)

    if after.table == "nat":
        return lost("connlimit in the nat table sees first packets only and cannot be counted again")
    if (chosen := reach.selectors(found)) == ():
        return lost("no opening packet can reach this rule, so its flows cannot be counted again")
    met = next((hazard for hazard in hazards if _meets(after, chosen, hazard)), None)
    return Limit(where, chosen, "" if met is None else f"{met.kind} at {met.where}")


@attrs.frozen(slots=True)
class _Hazard:
    """An extension that takes note of packets, where it stands, and the packets that can reach it."""

    kind: str
    where: str
    table: str
    selectors: tuple[Selector, ...]


def _hazards(reach: Reach, others: tuple[Observation, ...]) -> tuple[_Hazard, ...]:
    """All of them, in the new table and in those that opening packets may pass on their way to it.

    Not in nat: entries are made with their NAT done, so that table is not asked again. And none in the new table that
    only packets over a limit come to, which is also refused to them: the flows are within it.
    """
    return tuple(
        _Hazard(extension.name, each.observation.where(found), each.observation.table, each.selectors(found))
        for each in (reach, *(Reach(other) for other in others))
        if each.observation.table != "nat"
        for found in each.observation.found
        for at, extension in enumerate(extensions(found.entry))
        if disturbed_by_packets(extension)
        and not (each is reach and _is_refused(each.observation, found, found.entry.matches[:at]))
        and not (extension.name == statistic.NAME and each is reach)  # its round begins again anyway
    )


def _is_refused(table: Observation, found: Found, before: tuple[Extension, ...]) -> bool:
    """Whether only packets over a limit get past these first matches of a rule, and its chain refuses all such packets.

    By a rule that asks for no more than this one does, and counts by the same key.
    """
    size, limits = len(found.entry.source), [match for match in before if match.name == connlimit.NAME]
    head = conditions(found.entry)[0]
    for other in table.found if limits else ():
        asked = [match for match in other.entry.matches if match.name != "comment"]
        if (
            other.chain == found.chain
            and asked
            and asked[-1].name == connlimit.NAME
            and _refuses(other)
            and conditions(other.entry)[0] == head
            and all(match in found.entry.matches for match in asked[:-1])
            and any(_exceeds_too(limit, asked[-1], size) for limit in limits)
        ):
            return True
    return False


def _refuses(found: Found) -> bool:
    target = found.entry.target
    return found.entry.verdict == "DROP" or (target is not None and target.name == "REJECT")


def _exceeds_too(one: Extension, other: Extension, size: int) -> bool:
    """Whether who is over the first limit is over the other one as well."""
    mine, its = connlimit.decode(one), connlimit.decode(other)
    return connlimit.same_count(one, other, size) and not mine.upto and not its.upto and its.limit <= mine.limit


def _meets(after: Observation, chosen: tuple[Selector, ...], hazard: _Hazard) -> bool:
    return any(_on_the_way(after, target, hazard, one) for target in chosen for one in hazard.selectors)


def _on_the_way(after: Observation, target: Selector, hazard: _Hazard, one: Selector) -> bool:
    if one.hook not in ON_THE_WAY[target.hook]:
        return False
    if one.hook is target.hook and TABLES[hazard.table].priority > TABLES[after.table].priority:
        return False
    return can_meet(one, target, same_destination=one.destination_translated == target.destination_translated)


def _in_rule(after: Observation, new: Found, extension: Extension) -> Outcome | None:
    """What a replace does to state in a rule that nothing can be done about: no program can read or write it."""
    where = after.where(new)
    if extension.name == limit.NAME:
        detail = f"the bucket is full again: up to {limit.burst(extension)} packets more than allowed, once"
        return Outcome(limit.NAME, where, Fidelity.APPROXIMATED, detail)
    if extension.name == statistic.NAME and (n := statistic.every(extension)) is not None:
        detail = f"starts its round of {n} packets again: at most {n - 1} packets out of step, once"
        return Outcome(statistic.NAME, where, Fidelity.APPROXIMATED, detail)
    return None


def _named(before: Observation, after: Observation, elsewhere: set[StateKey], *, unseen: bool) -> list[Outcome]:
    outcomes = []
    raised, still_named = _raised_hit_counts(before, after), after.named()
    for (kind, name), extension in before.named().items():
        key = (kind, name)
        where = f"{before.family} {name}"
        if key in raised:
            detail = "the new rules ask for a larger hitcount, at which the kernel empties the list"
            outcomes.append(Outcome(extension.name, where, Fidelity.LOST, detail))
        elif kind == _IDLE_TIMER and (key in still_named or key in elsewhere):
            detail = "the kernel starts its time again whenever a rule that names it is made"
            outcomes.append(Outcome(extension.name, where, Fidelity.APPROXIMATED, detail))
        elif not can_hold(key, unseen=unseen) and (key in still_named or key in elsewhere):
            detail = "its average begins anew if no rule named it for a moment: it cannot be held for others"
            outcomes.append(Outcome(extension.name, where, Fidelity.APPROXIMATED, detail))
        elif key in still_named:
            detail = "still named by a rule of this table"
            if configuration(extension, before.family) != configuration(still_named[key], before.family):
                detail += ", and as it was made: the kernel takes no other configuration while one names it"
            outcomes.append(Outcome(extension.name, where, Fidelity.SURVIVES, detail))
        elif key in elsewhere:
            outcomes.append(Outcome(extension.name, where, Fidelity.SURVIVES, "still named in another table"))
    return outcomes


def _raised_hit_counts(before: Observation, after: Observation) -> set[StateKey]:
    """Lists that net/netfilter/xt_recent.c empties: a rule wants more stamps per address than any did before.

    recent_mt_check() does so when a rule needs a larger nstamps_max_mask than the list was made with.
    """
    most: list[dict[StateKey, int]] = [{}, {}]
    for room, observation in zip(most, (before, after), strict=True):
        for each in observation.found:
            for match in each.matches(recent.NAME):
                key = state_key(match)
                assert key is not None
                room[key] = max(room.get(key, 0), recent.room_for_stamps(match))
    return {key for key, stamps in most[1].items() if stamps > most[0].get(key, stamps)}


def _gone(before: Observation, key: StateKey, *, hold: bool) -> Outcome:
    kind, name = key
    where = f"{before.family} {name}"
    if hold:
        return Outcome(kind, where, Fidelity.HELD, "its last rule went; kept until a rule names it again")
    return Outcome(kind, where, Fidelity.LOST, f"its last rule in the {before.family} tables went")


def can_hold(key: StateKey, *, unseen: bool = False) -> bool:
    """Whether an inert rule keeps this state alive as it is.

    Not an estimator while others change rules `unseen`: the kernel would refuse their rule with other figures.
    """
    return key[0] in ("recent", "hashlimit", "idletimer") or (key[0] == "rateest" and not unseen)
