"""What is left of a quota across a replace: the kernel starts again from the rule's figure, so that has to be the rest.

The rule's own byte counter tells what has been used (net/netfilter/xt_quota.c takes the length of each packet that the
rule then counts), if no match behind the quota can still turn a packet away. Counters go on for ever while each replace
writes a smaller figure; so a ledger in the run directory keeps, for each rule written, from what figure its counter
counts down.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable

import attrs

from nfkeep.keep import rundir
from nfkeep.keep.observe import Found, Observation, observe
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Rule
from nfkeep.xtables import quota
from nfkeep.xtables.entry import with_match
from nfkeep.xtables.tables import TableHandle

_LEDGER = "quotas"
_LARGEST_PACKET = 65535
_WITHOUT_CONDITION = frozenset({"comment"})

Pair = tuple[Found, Found]
"""A rule of the old table, and the rule of the new one that goes on in its place."""


@attrs.frozen(slots=True)
class Carried:
    """One quota about to be written: `left` of `whole` bytes; `seen`: the rule's byte counter as it was read."""

    found: Found
    whole: int
    left: int
    seen: int
    exact: bool


class Ledger:
    """From what figure each quota's counter counts down, where that is not the figure in the rule."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError):  # or something else in it
            text = rundir.path(_LEDGER).read_text(encoding="ascii")
            self._known = {str(key): int(value) for key, value in json.loads(text).items()}
        self._read = dict(self._known)

    def whole(self, observation: Observation, found: Found, figure: int) -> int:
        """The figure from which the counter of this rule counts down."""
        return self._known.get(_key(observation, found), figure)

    def note(self, observation: Observation, found: Found, whole: int) -> None:
        """Remember it for a rule that is about to be written."""
        self._known[_key(observation, found)] = whole

    def forget_others(self, now: Observation) -> None:
        """Forget what it says of rules that this table has no longer, or whose counter began anew."""
        prefix = _prefix(now)
        valid = {
            key
            for found in now.found
            for match in found.matches(quota.NAME)
            if (key := _key(now, found)) in self._known
            and found.rule.counters.bytes >= self._known[key] - quota.quota(match)
        }
        self._known = {key: value for key, value in self._known.items() if key in valid or not key.startswith(prefix)}

    def save(self) -> None:
        """Write it down, if anything is new."""
        if self._known == self._read:
            return
        if self._known:
            rundir.write(_LEDGER, json.dumps(self._known).encode("ascii"))
        else:
            rundir.remove(_LEDGER)


def carry(handle: TableHandle, now: Observation, pairs: Iterable[Pair]) -> tuple[Carried, ...]:
    """Write the rest of each quota into its rule in `handle`, whose content `now` is; the caller then commits it."""
    pairs = [(old, new) for old, new in pairs if any(new.matches(quota.NAME))]
    if not pairs:
        return ()
    ledger = Ledger()
    carried = []
    for old, new in pairs:
        index, match = next((i, m) for i, m in enumerate(new.entry.matches) if m.name == quota.NAME)
        figure = quota.quota(match)
        before, after = old.rule.counters.bytes, new.rule.counters.bytes
        spent = after if after >= before else before + after  # or else it was put to zero meanwhile
        whole = ledger.whole(now, old, figure)
        inverted = quota.inverted(match)
        if inverted:
            left = 0 if spent else figure
        elif spent < whole - figure:  # somebody has put the counter to zero since the figure was written
            left = max(0, figure - spent)
        else:
            left = max(0, whole - spent)
        rule = with_match(new.rule, index, quota.with_quota(match, left))
        handle.rewrite(new.chain, new.position, rule)
        found = attrs.evolve(new, rule=rule)
        if after and not inverted:
            ledger.note(now, found, left + after)
        carried.append(Carried(new, whole, left, after, exact=not inverted and _counts_all(new)))
    ledger.save()
    return tuple(carried)


def from_the_beginning(now: Observation) -> dict[tuple[str, int], Rule]:
    """By chain and position, the rules of a table with the figure that their counter counts down from.

    Only those in which another one stands, as every replace of ours writes what is left.
    """
    ledger, found = Ledger(), {}
    for each in now.found:
        for index, match in enumerate(each.entry.matches):
            if match.name == quota.NAME and not quota.inverted(match):
                figure = quota.quota(match)
                whole = ledger.whole(now, each, figure)
                if figure != whole and each.rule.counters.bytes >= whole - figure:
                    found[each.chain, each.position] = with_match(each.rule, index, quota.with_quota(match, whole))
    return found


def settle(now: Observation) -> None:
    """Forget what does not hold any more of a table's rules, once it is sure to stay as it is `now`.

    Not before: should the change be refused or undone, the ledger has to know the earlier rules still.
    """
    if rundir.exists():
        ledger = Ledger()
        ledger.forget_others(now)
        with contextlib.suppress(rundir.NotWrittenError):  # the next one forgets it
            ledger.save()


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
    rule = found.rule
    for index, match in enumerate(found.entry.matches):
        if match.name == quota.NAME:
            rule = with_match(rule, index, quota.with_quota(match, 0))
    return rule.entry


def outcomes(handle: TableHandle, now: Observation, carried: Iterable[Carried]) -> list[Outcome]:
    """What became of each, once `handle` is committed."""
    return [_outcome(handle, now, each) for each in carried]


def _outcome(handle: TableHandle, now: Observation, each: Carried) -> Outcome:
    found = each.found
    counted = handle.replaced(found.chain, found.position)
    late = counted.bytes - each.seen if counted is not None else 0
    detail = f"{each.left} of {each.whole} bytes are left"
    fidelity = Fidelity.RESTORED
    if not each.exact:
        fidelity = Fidelity.APPROXIMATED
        detail += ", as far as the rule's counter tells: it does not count every packet that the quota does"
    elif late > 0:
        fidelity = Fidelity.APPROXIMATED
        detail += f"; {late} bytes that passed during the change come off at the next one"
    elif 0 < each.left <= _LARGEST_PACKET:
        detail += ", unless a packet larger than that had used it up"
    return Outcome(quota.NAME, now.where(found), fidelity, detail)


def _counts_all(found: Found) -> bool:
    """Whether the rule counts whatever its quota takes: no match behind it can turn the packet away."""
    names = [match.name for match in found.entry.matches]
    return set(names[names.index(quota.NAME) + 1 :]) <= _WITHOUT_CONDITION


def _prefix(observation: Observation) -> str:
    return f"{observation.family} {observation.table} "


def _key(observation: Observation, found: Found) -> str:
    return f"{_prefix(observation)}{found.chain} {hashlib.sha256(found.rule.entry).hexdigest()}"
