"""Every state in the legacy tables of this network namespace: where it sits, what is in it, what a change does."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from nfkeep.conntrack import Conntrack
from nfkeep.keep.hold import CHAIN, held
from nfkeep.keep.observe import Found, Observation, StateKey, observe_table
from nfkeep.keep.paths import Reach
from nfkeep.keep.plan import make_plan
from nfkeep.keep.quotas import used_since_written
from nfkeep.keep.report import Fidelity
from nfkeep.model import Family
from nfkeep.xtables import connlimit, hashlimit, limit, quota, recent, statistic
from nfkeep.xtables.stateful import extensions
from nfkeep.xtables.tables import in_use


@attrs.frozen(slots=True)
class State:
    """One state: its kind, its place, its content in words, and how it comes through a change made with nfkeep."""

    kind: str
    where: str
    content: str
    on_change: Fidelity
    detail: str = ""


def overview() -> tuple[State, ...]:
    """All states, IPv4 before IPv6, table by table. Raises PermissionDeniedError, UnsupportedError."""
    return tuple(state for family in Family for state in _family(family))


def _family(family: Family) -> Iterator[State]:
    tables = [observe_table(family, name) for name in in_use(family)]
    reported: set[StateKey] = set()
    for observation in tables:
        others = tuple(other for other in tables if other is not observation)
        plan = make_plan(observation, observation, others)
        known = {(o.kind, o.where): o for o in (*plan.outcomes, *plan.feared)}
        for found in observation.stateful():
            if found.chain == CHAIN:
                continue
            where = observation.where(found)
            for extension in extensions(found.entry):
                content = _content(observation, found, extension.name)
                if content is None:
                    continue
                outcome = known.get((extension.name, where))
                yield State(
                    extension.name,
                    where,
                    content,
                    outcome.fidelity if outcome else Fidelity.RESTORED,
                    outcome.detail if outcome else "",
                )
        for key in observation.named():
            if key not in reported:
                reported.add(key)
                yield _named(family, key, kept_by_hold=key in held(family))


def _content(observation: Observation, found: Found, kind: str) -> str | None:
    match = next(found.matches(kind), None)
    if match is None:
        return None
    if kind == connlimit.NAME:
        asked = connlimit.decode(match)
        address = "destination" if asked.by_destination else "source"
        prefix = sum(byte.bit_count() for byte in asked.mask[: len(found.entry.source)])
        limit_text = f"{'up to' if asked.upto else 'limit'} {asked.limit} per {address} /{prefix}"
        with Conntrack() as conntrack:
            live = conntrack.count(observation.family, Reach(observation).selectors(found))
        return f"{live} live flows, {limit_text}"
    if kind == limit.NAME:
        return f"a bucket of {limit.burst(match)} packets, level unreadable"
    if kind == quota.NAME:
        used, total = used_since_written(found), found.wholes[0]
        return f"{total - max(0, found.figures[0] - used)} of {total} bytes counted"
    if kind == statistic.NAME:
        every = statistic.every(match)
        return None if every is None else f"a round of {every} packets, position unreadable"
    return None


def _named(family: Family, key: StateKey, *, kept_by_hold: bool) -> State:
    kind, name = key
    if kind == recent.NAME:
        entries = recent.entries(name)
        content = "not there" if entries is None else f"{entries} addresses"
    elif kind == hashlimit.NAME:
        buckets = hashlimit.buckets(name, family)
        content = "not there" if buckets is None else f"{buckets} buckets"
    else:
        content = "content unreadable"
    if kept_by_hold:
        return State(kind, f"{family} {name}", content, Fidelity.HELD, f"by a rule in the chain {CHAIN}")
    return State(kind, f"{family} {name}", content, Fidelity.SURVIVES, "while a rule names it")
