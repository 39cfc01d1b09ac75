"""From a table before and after a change to what has to be done for its state. Pure: values in, a value out.

A rule of the new table continues one of the old table if it is the same rule, or a connlimit rule that asks the same
of packets and counts by the same key, whatever it allows or does with them.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from nfkeep.conntrack.select import Selector
from nfkeep.keep.observe import Found, Observation, StateKey, state_key
from nfkeep.keep.paths import can_meet, conditions, selectors
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Hook
from nfkeep.xtables import connlimit, limit, quota, recent, statistic
from nfkeep.xtables.entry import Extension
from nfkeep.xtables.opening import asks_state
from nfkeep.xtables.stateful import disturbed_by_packets, extensions
from nfkeep.xtables.tables import TABLES

#: What an opening packet would do to these cannot be undone: better not to count than to ban, divert or mark.
_HARMFUL = frozenset(
    {
        *("recent", "hashlimit", "NFQUEUE", "TEE", "SYNPROXY", "CLUSTERIP", "TPROXY", "SET", "CT"),
        *("NFLOG", "ULOG", "AUDIT", "TRACE", "IDLETIMER", "CONNMARK", "CONNSECMARK", "LED"),
    }
)

_PATH = {
    Hook.PREROUTING: (Hook.PREROUTING,),
    Hook.INPUT: (Hook.PREROUTING, Hook.INPUT),
    Hook.FORWARD: (Hook.PREROUTING, Hook.FORWARD),
    Hook.OUTPUT: (Hook.OUTPUT,),
    Hook.POSTROUTING: (Hook.PREROUTING, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING),
}


@attrs.frozen(slots=True)
class Limit:
    """A connlimit rule of the new table whose count is to be put back, by packets that `selectors` choose."""

    where: str
    selectors: tuple[Selector, ...]


@attrs.frozen(slots=True)
class Plan:
    """What to do: `limits` to count again, named states to hold, and what is known about everything else.

    `needs_new`: some rule on the way asks for a conntrack state, so opening packets must really be NEW.
    """

    limits: tuple[Limit, ...]
    holds: tuple[tuple[StateKey, Extension], ...]
    returned: frozenset[StateKey]
    outcomes: tuple[Outcome, ...]
    needs_new: bool


def make_plan(
    before: Observation,
    after: Observation,
    others: Iterable[Observation] = (),
    *,
    hold: bool = True,
) -> Plan:
    """Plan for a replace that turns `before` into `after`; `others` are the family's other tables as they are."""
    others = tuple(others)
    limits: list[Limit] = []
    outcomes: list[Outcome] = []
    pairs = tuple(_continued(before, after))
    for old, new in pairs:
        for extension in extensions(new.entry):
            if extension.name == connlimit.NAME:
                planned = _limit(after, new, others)
                if isinstance(planned, Limit):
                    limits.append(planned)
                else:
                    outcomes.append(planned)
            elif (outcome := _in_rule(after, old, new, extension)) is not None:
                outcomes.append(outcome)
    elsewhere = {key for other in others for key in other.named()}
    gone = {key: e for key, e in before.named().items() if key not in after.named() and key not in elsewhere}
    outcomes += _named(before, after, elsewhere)
    outcomes += [_gone(before, key, hold=hold) for key in gone]
    outcomes += _mild_hazards(after, others, limits)
    return Plan(
        tuple(limits),
        tuple((key, e) for key, e in gone.items() if hold and _can_be_held(key)),
        frozenset(after.named().keys() - before.named().keys()),
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
    return tuple(
        selector
        for each in observation.found
        if any(each.matches(connlimit.NAME))
        for selector in selectors(observation, each)
    )


def _continued(before: Observation, after: Observation) -> Iterable[tuple[Found, Found]]:
    """Pairs of an old rule and the new rule that goes on in its place."""
    left = list(before.stateful())
    unmatched = []
    for new in after.stateful():
        old = next((o for o in left if o.rule == new.rule and o.chain == new.chain), None) or next(
            (o for o in left if o.rule == new.rule), None
        )
        if old is None:
            unmatched.append(new)
            continue
        left.remove(old)
        yield old, new
    for new in unmatched:
        old = next((o for o in left if _same_limit(o, new)), None)
        if old is not None:
            left.remove(old)
            yield old, new


def _same_limit(old: Found, new: Found) -> bool:
    one, other = list(old.matches(connlimit.NAME)), list(new.matches(connlimit.NAME))
    rest = [[m for m in f.entry.matches if m.name != connlimit.NAME] for f in (old, new)]
    return (
        len(one) == len(other) > 0
        and all(connlimit.same_count(a, b) for a, b in zip(one, other, strict=True))
        and rest[0] == rest[1]
        and conditions(old.entry) == conditions(new.entry)
    )


def _limit(after: Observation, found: Found, others: tuple[Observation, ...]) -> Limit | Outcome:
    where = after.where(found)

    def lost(reason: str) -> Outcome:
        return Outcome(connlimit.NAME, where, Fidelity.LOST, reason)

    if after.table == "nat":
        return lost("connlimit in the nat table sees first packets only and cannot be counted again")
    if (chosen := selectors(after, found)) == ():
        return lost("no opening packet can reach this rule, so its flows cannot be counted again")
    for observation, hazard, extension in _hazards(after, others, chosen):
        if extension.name in _HARMFUL:
            return lost(f"opening packets would meet {extension.name} at {observation.where(hazard)}")
    return Limit(where, chosen)


def _hazards(
    after: Observation, others: tuple[Observation, ...], chosen: tuple[Selector, ...]
) -> Iterable[tuple[Observation, Found, Extension]]:
    """Rules that the opening packets of `chosen` could meet and that would take note of them."""
    for observation in (after, *others):
        if observation.table == "nat":
            continue  # entries are made with their NAT done, so the nat table is not asked again
        for each in observation.found:
            disturbed = [e for e in extensions(each.entry) if disturbed_by_packets(e)]
            if not disturbed:
                continue
            met = selectors(observation, each)
            if any(_on_the_way(after, target, observation, one) for target in chosen for one in met):
                for extension in disturbed:
                    yield observation, each, extension


def _on_the_way(after: Observation, target: Selector, observation: Observation, one: Selector) -> bool:
    if one.hook not in _PATH[target.hook]:
        return False
    if one.hook is target.hook and TABLES[observation.table].priority > TABLES[after.table].priority:
        return False
    if one.hook is target.hook and one.destination_translated == target.destination_translated:
        return can_meet(one, target)
    return True  # another hook, where addresses may still be others: assume that they meet


def _mild_hazards(after: Observation, others: tuple[Observation, ...], limits: list[Limit]) -> list[Outcome]:
    chosen = tuple(selector for each in limits for selector in each.selectors)
    found = {
        (observation.where(hazard), extension.name): observation
        for observation, hazard, extension in _hazards(after, others, chosen)
        if extension.name not in _HARMFUL
    }
    return [
        Outcome(name, where, Fidelity.APPROXIMATED, "sees one opening packet for each flow that is counted again")
        for (where, name), observation in found.items()
        if observation is not after or name not in (limit.NAME, quota.NAME, statistic.NAME)
    ]


def _in_rule(after: Observation, old: Found, new: Found, extension: Extension) -> Outcome | None:
    """What a replace does to state in a rule that nothing is done about yet."""
    where = after.where(new)
    if extension.name == limit.NAME:
        detail = f"the bucket is full again: up to {limit.burst(extension)} packets more than allowed, once"
        return Outcome(limit.NAME, where, Fidelity.APPROXIMATED, detail)
    if extension.name == quota.NAME:
        total, used = quota.quota(extension), old.rule.counters.bytes
        detail = f"starts again at {total} bytes; the rule had counted {min(used, total)} bytes"
        return Outcome(quota.NAME, where, Fidelity.LOST, detail)
    if extension.name == statistic.NAME and (n := statistic.every(extension)) is not None:
        detail = f"starts its round of {n} packets again: at most {n - 1} packets out of step, once"
        return Outcome(statistic.NAME, where, Fidelity.APPROXIMATED, detail)
    return None


def _named(before: Observation, after: Observation, elsewhere: set[StateKey]) -> list[Outcome]:
    outcomes = []
    raised = _raised_hit_counts(before, after)
    for (kind, name), extension in before.named().items():
        key = (kind, name)
        where = f"{before.family} {name}"
        if key in raised:
            detail = "the new rules ask for a larger hitcount, at which the kernel empties the list"
            outcomes.append(Outcome(extension.name, where, Fidelity.LOST, detail))
        elif key in after.named():
            outcomes.append(Outcome(extension.name, where, Fidelity.SURVIVES, "still named by a rule of this table"))
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
    if hold and _can_be_held(key):
        return Outcome(kind, where, Fidelity.HELD, "its last rule went; kept until a rule names it again")
    return Outcome(kind, where, Fidelity.LOST, f"its last rule in the {before.family} tables went")


def _can_be_held(key: StateKey) -> bool:
    return key[0] in ("recent", "hashlimit")
