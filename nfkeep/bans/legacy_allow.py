"""The allow list of all ban lists with rules in legacy tables: rules of the chain that they share, ahead of every list.

It is at home in mangle, with or without any ban list; while lists in filter reject, there is a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nfkeep.bans.legacy_tables import HOME, SHARED_CHAIN, TABLES, change, delete_unless_used, require, rules_of
from nfkeep.bans.values import Kind, address_of
from nfkeep.keep.transaction import Transaction
from nfkeep.model import Family, Rule
from nfkeep.xtables.entry import Entry, decode
from nfkeep.xtables.tables import TableHandle, in_use


def allowed() -> list[tuple[Kind, bytes]]:
    """What is in, as (kind, key)."""
    found = []
    for family in Family:
        if HOME in in_use(family):
            with TableHandle(HOME, family) as handle:
                found += [_key(decode(rule)) for rule in allowances(handle)]
    return found


def allow(kind: Kind, keys: bytes) -> None:
    """Let packets from these addresses past all lists. Keys that are in already change nothing."""
    rules = _rules(kind, keys)

    def at_home(tx: Transaction, now: TableHandle) -> None:
        if not now.has_chain(SHARED_CHAIN):
            tx.new_chain(SHARED_CHAIN)
        let_pass(rules, tx, now)

    def in_copy(tx: Transaction, now: TableHandle) -> None:
        if now.has_chain(SHARED_CHAIN):  # still
            let_pass(rules, tx, now)

    # The home first, here and below: whoever makes a copy meanwhile has what is right, or is found by the second step.
    require(HOME, kind.family)
    change(HOME, kind.family, at_home)
    for table in _copies(kind.family):
        change(table, kind.family, in_copy)


def disallow(kind: Kind, keys: bytes) -> int:
    """Take addresses out; how many were in."""
    rules = frozenset(_rules(kind, keys))
    found: set[Rule] = set()

    def edit(tx: Transaction, now: TableHandle) -> None:
        present = rules_of(now, SHARED_CHAIN)
        gone = [rule for rule in present if rule in rules]
        found.update(gone)
        for rule in gone:
            tx.delete(SHARED_CHAIN, rule)
        if gone and len(gone) == len(present):
            delete_unless_used(tx, SHARED_CHAIN)

    if HOME in in_use(kind.family):
        change(HOME, kind.family, edit)
    for table in _copies(kind.family):
        change(table, kind.family, edit)
    return len(found)


def allowances(handle: TableHandle) -> list[Rule]:
    """The rules of the shared chain that are entries of the allow list, and not somebody's own."""
    return [rule for rule in rules_of(handle, SHARED_CHAIN) if rule == _rule(*_key(decode(rule)))]


def let_pass(rules: Sequence[Rule], tx: Transaction, now: TableHandle) -> None:
    """Add rules to the shared chain, ahead of all lists, unless they are there."""
    present = frozenset(rules_of(now, SHARED_CHAIN))
    for rule in rules:
        if rule not in present:
            tx.insert(SHARED_CHAIN, rule)


def _copies(family: Family) -> list[str]:
    """Tables besides the home that have the shared chain."""
    found = []
    for table in in_use(family):
        if table in TABLES and table != HOME:
            with TableHandle(table, family) as handle:
                found += [table] * handle.has_chain(SHARED_CHAIN)
    return found


def _rules(kind: Kind, keys: bytes) -> list[Rule]:
    size = kind.key_bytes
    return [_rule(kind, keys[at : at + size]) for at in range(0, len(keys), size)]


def _rule(kind: Kind, key: bytes) -> Rule:
    return Rule.parse(f"-s {address_of(kind, key)} -j RETURN", kind.family)


def _key(entry: Entry) -> tuple[Kind, bytes]:
    is_network = entry.source_mask != b"\xff" * len(entry.source_mask)
    kind = Kind((entry.family is Family.IPV6) + 2 * is_network)
    return kind, entry.source + (entry.source_mask if is_network else b"")
