"""Holds: inert rules in a table that nobody edits, which keep a named state alive while no other rule names it.

The rules stand in a chain that nothing jumps to, so that no packet ever meets them; the kernel counts references to a
list or a table of buckets by rules, reached or not (net/netfilter/xt_recent.c, recent_mt_check).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable

from nfkeep.errors import UnsupportedError
from nfkeep.keep.observe import HOLD_CHAIN, StateKey, state_key
from nfkeep.model import Family, Rule
from nfkeep.xtables.entry import Extension, decode
from nfkeep.xtables.stateful import IN_RULE, extensions, is_target
from nfkeep.xtables.tables import TableHandle, in_use

CHAIN = HOLD_CHAIN

_HEAD_SIZE = {Family.IPV4: 112, Family.IPV6: 168}
_OFFSETS_AT = {Family.IPV4: 88, Family.IPV6: 140}


def place(family: Family, states: Iterable[tuple[StateKey, Extension]], *, beside: Collection[str] = ()) -> None:
    """Hold states, each by a copy of an extension that names it; `beside` are the tables about to change.

    The caller has the xtables lock.
    """
    wanted = dict(states)
    if not wanted:
        return
    with TableHandle(_quiet_table(family, beside), family) as handle:
        if not handle.has_chain(CHAIN):
            handle.create_chain(CHAIN)
        held = _held(handle)
        for key, extension in wanted.items():
            if key not in held:
                handle.append(CHAIN, _inert(family, extension))
        handle.commit()


def take_down(family: Family, states: Collection[StateKey]) -> None:
    """Remove the holds of these states, wherever they are; the last one takes the chain with it."""
    for table in in_use(family):
        with TableHandle(table, family) as handle:
            if not handle.has_chain(CHAIN):
                continue
            rules = list(handle.rules(CHAIN))
            keep = [rule for rule in rules if not _keys(rule) & set(states)]
            if len(keep) == len(rules):
                continue
            handle.flush(CHAIN)
            for rule in keep:
                handle.append(CHAIN, rule)
            if not keep:
                handle.delete_chain(CHAIN)
            handle.commit()


def held(family: Family) -> frozenset[StateKey]:
    """The states that holds keep alive now."""
    keys: set[StateKey] = set()
    for table in in_use(family):
        with TableHandle(table, family) as handle:
            if handle.has_chain(CHAIN):
                keys |= _held(handle)
    return frozenset(keys)


def _held(handle: TableHandle) -> set[StateKey]:
    return {key for rule in handle.rules(CHAIN) for key in _keys(rule)}


def _keys(rule: Rule) -> set[StateKey]:
    return {key for extension in extensions(decode(rule)) if (key := state_key(extension)) is not None}


def _quiet_table(family: Family, beside: Collection[str]) -> str:
    """A table whose replace resets nothing; raw, unless it is about to change or keeps state in its rules."""
    free = [table for table in ("raw", "security", "mangle", "nat", "filter") if table not in beside]
    if not free:
        raise UnsupportedError("all tables are about to change, so none is left to hold a list in", feature="hold")
    for table in free[:3]:
        if table not in in_use(family):
            return table
        with TableHandle(table, family) as handle:
            if not handle.has(tuple(sorted(IN_RULE))):
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
