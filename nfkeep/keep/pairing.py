"""Which rule of a new table goes on in the place of which rule of the old one. Pure: values in, values out.

It is the same rule, or a quota rule in which another figure stands, or a connlimit rule that asks the same of packets
and counts by the same key. Among rules that are all the same, what they have counted tells them apart.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable

from nfkeep.keep.observe import Found, Observation
from nfkeep.keep.paths import conditions
from nfkeep.model import Rule
from nfkeep.xtables import connlimit, quota

Pair = tuple[Found, Found]
"""A rule of the old table, and the rule of the new one that goes on in its place."""


def continued(before: Observation, after: Observation) -> list[Pair]:
    """The pairs of the rules that keep state, in the order of the new table."""
    olds, news = list(before.stateful()), list(after.stateful())
    order = {id(new): at for at, new in enumerate(news)}
    pairs: list[Pair] = []
    for content in (_bytes, _rule, _any_figures):
        pairs += _grouped(olds, news, content, _among_equals)
    limits = [old for old in olds if any(old.matches(connlimit.NAME))]
    for new in news:
        changed = next((old for old in limits if _same_limit(old, new)), None)
        if changed is not None:
            limits.remove(changed)
            pairs.append((changed, new))
    return sorted(pairs, key=lambda pair: order[id(pair[1])])


def same_quotas(old: Found, new: Found) -> bool:
    """Whether the quotas in two rules are the same ones, whatever of them is left in the figures."""
    return bool(new.figures) and (new.figures in (old.figures, old.wholes) or new.wholes == old.wholes)


_Choose = Callable[[list[Found], list[Found]], list[Pair]]


def _grouped(olds: list[Found], news: list[Found], key: Callable[[Found], Hashable], choose: _Choose) -> list[Pair]:
    """Pairs that `choose` makes among those of one key (not None); they are taken out of `olds` and `news`."""
    if not olds or not news:
        return []
    rooms: dict[Hashable, tuple[list[Found], list[Found]]] = {}
    for side, rules in enumerate((olds, news)):
        for each in rules:
            if (found := key(each)) is not None:
                rooms.setdefault(found, ([], []))[side].append(each)
    pairs = [pair for room in rooms.values() if all(room) for pair in choose(*room)]
    taken = {id(each) for pair in pairs for each in pair}
    for rules in (olds, news):
        rules[:] = [each for each in rules if id(each) not in taken]
    return pairs


def _among_equals(olds: list[Found], news: list[Found]) -> list[Pair]:
    """Pairs of rules that are all the same: best by what they have counted, then by where they stand."""
    if len(olds) == len(news) == 1:
        return _in_order(olds, news)
    pairs: list[Pair] = []
    for key, choose in _WAYS:
        pairs += _grouped(olds, news, key, choose)
    return pairs


def _in_order(olds: list[Found], news: list[Found]) -> list[Pair]:
    return list(zip(olds, news, strict=False))


def _in_order_if_as_many(olds: list[Found], news: list[Found]) -> list[Pair]:
    return _in_order(olds, news) if len(olds) == len(news) else _fitting(olds, news)


def _fitting(olds: list[Found], news: list[Found]) -> list[Pair]:
    """Each new one with the old one that had counted most of those that had not counted more: counters grow."""
    left, pairs = sorted(olds, key=_bytes_counted), []
    for new in sorted(news, key=_bytes_counted, reverse=True):
        if at := bisect.bisect_right(left, _bytes_counted(new), key=_bytes_counted):
            pairs.append((left.pop(at - 1), new))
    return pairs


def _bytes_counted(found: Found) -> int:
    return found.rule.counters.bytes


def _chain(found: Found) -> Hashable:
    return found.chain


def _anywhere(_: Found) -> Hashable:
    return ""


def _counted_in_chain(found: Found) -> Hashable:
    return (found.chain, found.rule.counters) if found.rule.counters.packets else None


def _counted(found: Found) -> Hashable:
    return found.rule.counters if found.rule.counters.packets else None


_WAYS: tuple[tuple[Callable[[Found], Hashable], _Choose], ...] = (
    (_counted_in_chain, _in_order),
    (_counted, _in_order),
    (_chain, _in_order_if_as_many),
    (_anywhere, _fitting),
    (_chain, _in_order),  # counters were put to zero meanwhile
    (_anywhere, _in_order),
)


def _bytes(found: Found) -> Hashable:
    return _with_wholes(found).entry


def _rule(found: Found) -> Hashable:
    """Slower, and needed where a rule came back from its text, as from iptables-restore."""
    return _with_wholes(found)


def _with_wholes(found: Found) -> Rule:
    """A file that was saved earlier brings an earlier figure back: what it is the rest of is the same."""
    return found.rule if found.note is None else quota.with_figures(found.rule, found.wholes)


def _any_figures(found: Found) -> Hashable:
    return quota.with_figures(found.rule, [0] * len(found.figures)) if found.figures else None


def _same_limit(old: Found, new: Found) -> bool:
    one, other = list(old.matches(connlimit.NAME)), list(new.matches(connlimit.NAME))
    rest = [[m for m in f.entry.matches if m.name != connlimit.NAME] for f in (old, new)]
    return (
        len(one) == len(other) > 0
        and all(connlimit.same_count(a, b, len(old.entry.source)) for a, b in zip(one, other, strict=True))
        and rest[0] == rest[1]
        and conditions(old.entry) == conditions(new.entry)
    )
