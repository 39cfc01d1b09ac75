"""Holds: inert rules in a table that nobody edits, which keep a named state alive while no other rule names it.

The rules stand in a chain that nothing jumps to, so that no packet ever meets them; the kernel counts references to a
list or a table of buckets by rules, reached or not (net/netfilter/xt_recent.c, recent_mt_check).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nfkeep.errors import ConflictError, InvalidRuleError, UnsupportedError
from nfkeep.keep.observe import HOLD_CHAIN, Observation, StateKey, observe, observe_table, state_key
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Family, Rule
from nfkeep.xtables.entry import Extension, decode, with_match
from nfkeep.xtables.stateful import IN_RULE, NAMED, configuration, extensions, is_target, renamed
from nfkeep.xtables.tables import TableHandle, in_use
from nfkeep.xtables.text import parse

if TYPE_CHECKING:
    from nfkeep.keep.journal import Note

CHAIN = HOLD_CHAIN

_IN_RULE = tuple(sorted(IN_RULE))
_NAMED = {name.lower() for name in NAMED} | NAMED
_TRIES = 10

_HEAD_SIZE = {Family.IPV4: 112, Family.IPV6: 168}
_OFFSETS_AT = {Family.IPV4: 88, Family.IPV6: 140}


def place(
    family: Family, states: Iterable[tuple[StateKey, Extension]], *, beside: Collection[str] = ()
) -> tuple[Outcome, ...]:
    """Hold states, each by a copy of an extension that names it; `beside` are the tables about to change.

    What became of other state, where the only table left to hold them in has some. The caller has the xtables lock.
    """
    wanted = dict(states)
    if not wanted:
        return ()
    with TableHandle(_quiet_table(family, beside), family) as handle:
        rules = list(handle.rules(CHAIN)) if handle.has_chain(CHAIN) else []
        held = {key for rule in rules for key in _keys(rule)}
        return _write(handle, rules + [_inert(family, wanted[key]) for key in wanted if key not in held])


def take_down(family: Family, states: Collection[StateKey], *, but: Collection[str] = ()) -> tuple[Outcome, ...]:
    """Remove the holds of these states, `but` those in some tables; the last one takes the chain with it.

    What became of other state in the tables where they stood. The caller has the xtables lock.
    """
    told: list[Outcome] = []
    for table in in_use(family):
        with TableHandle(table, family) as handle:
            if table in but or not handle.has_chain(CHAIN):
                continue
            rules = list(handle.rules(CHAIN))
            keep = [rule for rule in rules if not _keys(rule).keys() & set(states)]
            if len(keep) != len(rules):
                told += _write(handle, keep)
    return tuple(told)


def held(family: Family) -> frozenset[StateKey]:
    """The states that holds keep alive now."""
    return frozenset(standing(family))


def standing(family: Family) -> dict[StateKey, Extension]:
    """The same, each with the extension that keeps it."""
    found: dict[StateKey, Extension] = {}
    for table in in_use(family):
        with TableHandle(table, family) as handle:
            if handle.has_chain(CHAIN):
                for rule in handle.rules(CHAIN):
                    found |= _keys(rule)
    return found


def unlike(family: Family, tables: Iterable[Observation]) -> dict[StateKey, Extension]:
    """Held states that rules in these tables, and in no other one, name with another configuration than they have.

    Each with the first such extension. Kept alive, the state would go on as it was made, or make the kernel refuse the
    rule; without the hold it would be made anew.
    """
    named: dict[StateKey, list[Extension]] = {}
    known: set[str] = set()
    for each in tables:
        known.add(each.table)
        for found in each.found:
            for extension in extensions(found.entry) if found.chain != CHAIN else ():
                if (key := state_key(extension)) is not None and configuration(extension, family) is not None:
                    named.setdefault(key, []).append(extension)
    if not named:
        return {}
    made = {key: configuration(extension, family) for key, extension in standing(family).items() if key in named}
    differ = {
        key: named[key][0]
        for key, kept in made.items()
        if kept not in (configuration(extension, family) for extension in named[key])
    }
    for name in in_use(family) if differ else ():
        for key in observe_table(family, name).named(holds=False) if name not in known else ():
            differ.pop(key, None)
    return differ


def estimators_unlike(family: Family, arguments: Sequence[str]) -> frozenset[StateKey]:
    """Held estimators that arguments of iptables make anew with other figures, or with figures that are hard to tell.

    The kernel would refuse the rule. These are the only states for which it has to be known beforehand.
    """
    options = ("--rateest-name", "--rateest-interval", "--rateest-ewma")
    if not any("RATEEST" in each for each in arguments):
        return frozenset()
    given = {option: value for option, value in itertools.pairwise(arguments) if option in options}
    try:
        rule = parse("-j RATEEST " + " ".join(f"{option} {value}" for option, value in given.items()), family)
        made = _keys(rule)
    except InvalidRuleError:
        made = {}
    return frozenset(
        key
        for key, kept in standing(family).items()
        if key[0] == "rateest"
        and any(key[1] in each for each in arguments)
        and (key not in made or configuration(made[key], family) != configuration(kept, family))
    )


def renew(family: Family, states: Collection[StateKey]) -> tuple[str, ...]:
    """Have the kernel make lists and tables of buckets anew, as the rules that name them want them; holds go.

    These rules have another name for a moment, so that nothing keeps the old one alive, and are in force meanwhile.
    The tables that were replaced. The caller has the xtables lock, and puts back what else these tables keep.
    """
    take_down(family, states)
    aside = {key: f"nfkeep-new-{number}" for number, key in enumerate(sorted(states))}
    tables: list[str] = []
    try:
        for table in in_use(family):
            if _rename(family, table, aside):
                tables.append(table)
    finally:
        for table in tables:
            _rename(family, table, {(kind, name): old for (kind, old), name in aside.items()})
    return tuple(tables)


def lost(family: Family, states: Iterable[StateKey]) -> tuple[Outcome, ...]:
    """What is to be told of states that had to be made anew."""
    detail = "a rule brought the name back with another configuration, which the kernel takes only for a new one"
    return tuple(Outcome(kind, f"{family} {name}", Fidelity.LOST, detail) for kind, name in states)


def _rename(family: Family, table: str, names: Mapping[StateKey, str]) -> bool:
    """Give lists and tables of buckets other names in the rules of a table; whether there were such rules."""
    for tries_left in reversed(range(_TRIES)):
        with TableHandle(table, family) as handle:
            changed = False
            for found in observe(handle).found:
                rule = found.rule
                for index, match in enumerate(found.entry.matches if found.chain != CHAIN else ()):
                    if (key := state_key(match)) in names and key is not None:
                        rule = with_match(rule, index, renamed(match, names[key]))
                if rule is not found.rule:
                    handle.rewrite(found.chain, found.position, rule)
                    changed = True
            if not changed:
                return False
            try:
                handle.commit()
            except ConflictError:  # somebody without the lock
                if not tries_left:
                    raise
            else:
                return True
    raise AssertionError("the last try returns or raises")


def _write(handle: TableHandle, rules: Iterable[Rule]) -> tuple[Outcome, ...]:
    """Let the chain have these rules, or go if there are none; what the table keeps in its rules is put back."""
    before = observe(handle) if handle.has(_IN_RULE) else None
    if handle.has_chain(CHAIN):
        handle.flush(CHAIN)
    else:
        handle.create_chain(CHAIN)
    empty = True
    for rule in rules:
        handle.append(CHAIN, rule)
        empty = False
    if empty:
        handle.delete_chain(CHAIN)
    if before is None:
        handle.commit()
        return ()
    from nfkeep.keep.change import Change, Replaced, apply  # which places holds itself

    def replace(_note: Note) -> Replaced:
        handle.commit()
        return Replaced(observe_table(handle.family, handle.name), quotas=None)

    report = apply([Change(before, handle.image(), replace)], keep_holds=False)
    return tuple(outcome for outcome in report.outcomes if outcome.kind not in _NAMED)


def _keys(rule: Rule) -> dict[StateKey, Extension]:
    return {key: extension for extension in extensions(decode(rule)) if (key := state_key(extension)) is not None}


def _quiet_table(family: Family, beside: Collection[str]) -> str:
    """A table whose replace resets nothing; raw, unless it is about to change or keeps state in its rules."""
    free = [table for table in ("raw", "security", "mangle", "nat", "filter") if table not in beside]
    if not free:
        raise UnsupportedError("all tables are about to change, so none is left to hold a list in", feature="hold")
    for table in free[:3]:
        if table not in in_use(family):
            return table
        with TableHandle(table, family) as handle:
            if not handle.has(_IN_RULE):
                return table
    return free[0]


def _inert(family: Family, extension: Extension) -> Rule:
    """A rule without conditions but this match, and without a target; or with this target alone."""
    size = 32 + len(extension.data)
    named = struct.pack("=H29sB", size, extension.name.encode(), extension.revision) + extension.data
    nowhere = struct.pack("=H29sB", 40, b"", 0) + bytes(8)
    matches, target = (b"", named) if is_target(extension) else (named, nowhere)
    head = bytearray(_HEAD_SIZE[family])
    target_at = len(head) + len(matches)
    struct.pack_into("=HH", head, _OFFSETS_AT[family], target_at, target_at + len(target))
    return Rule(family, bytes(head) + matches + target)
