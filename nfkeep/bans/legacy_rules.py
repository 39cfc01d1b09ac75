"""The rules of ban lists in legacy iptables tables: one shared chain, and two chains for each list.

    INPUT, FORWARD       -j nfkeep, as first rule
    nfkeep               -i lo -j RETURN, as own addresses are never banned; -s NET -j RETURN for each entry of the
                         allow list; -j nfkeep/NAME for each list
    nfkeep/NAME          MATCH -g nfkeep:NAME for each way to come from a banned source
    nfkeep:NAME          what happens to such a packet, by service

Lists that drop or count are in the table mangle, which few programs edit; those that reject are in filter, where alone
the kernel lets them. Everything here goes through a transaction, so that the host's own state lives on; a ban doesn't
come here. All of it concerns the network namespace of the calling thread.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nfkeep.bans import legacy_allow
from nfkeep.bans.legacy_allow import allowances, let_pass
from nfkeep.bans.legacy_tables import (
    HOME,
    SHARED_CHAIN,
    TABLES,
    change,
    comment_of,
    delete_unless_used,
    has_addresses,
    jump_to,
    rules_of,
    usable,
    with_comment,
)
from nfkeep.bans.legacy_verdicts import verdicts
from nfkeep.bans.values import Action, Kind, Policy
from nfkeep.keep.transaction import Transaction
from nfkeep.model import Family, Rule
from nfkeep.xtables.tables import TableHandle, in_use

__all__ = ["LONGEST_NAME", "SHARED_CHAIN", "LegacyRules"]

LONGEST_NAME = 199
"""The longest name of a list, which is one word of a comment and may be the name of a list of recent."""


class LegacyRules:
    """The rules of one ban list.

    `matches`: for each family the ways, as iptables writes them, in which a packet comes from a banned source. IPv6 is
    left out where the host has none. Every method raises PermissionDeniedError, LockTimeoutError, UnsupportedError
    (no such table on this host), CommitError, and ConflictError if a program that ignores the xtables lock keeps
    changing the same table.
    """

    def __init__(self, name: str, matches: Mapping[Family, Sequence[str]]) -> None:
        self.name = name
        self._matches = matches
        self._sources = _chain_name("nfkeep/", name)
        self._verdicts = _chain_name("nfkeep:", name)
        self._title = f"nfkeep ban list {name}: "

    @property
    def chains(self) -> tuple[str, ...]:
        """The chains that belong to this list alone."""
        return self._sources, self._verdicts

    def policy(self) -> Policy | None:
        """What the rules that are there do, as their comments say it; None if there are none.

        Raises InvalidListError if somebody has rewritten the comments.
        """
        for table in TABLES:
            for family in self._matches:
                if table not in in_use(family):
                    continue
                with TableHandle(table, family) as handle:
                    comments = [comment_of(rule) for rule in rules_of(handle, self._sources)]
                for comment in comments:
                    if comment.startswith(self._title):
                        return Policy.parse(comment.removeprefix(self._title))
        return None

    def install(self, policy: Policy) -> None:
        """Put the rules in place, or others in their place: one atomic step for each table, none that changes nothing.

        A list that goes to the other table is in both for a moment, and never in none. The jumps of INPUT and FORWARD
        are (again) the first rules there.
        """
        families = [family for family in self._matches if usable(_TABLE_OF[policy.action], family)]
        for family in families:
            change(_TABLE_OF[policy.action], family, lambda tx, now: self._install(policy, tx, now))
        for table in TABLES:
            if table != _TABLE_OF[policy.action]:
                self._remove_from(table)

    def in_force(self) -> bool:
        """Whether all rules are there, and none before them takes every packet away."""
        policy = self.policy()
        return policy is not None and all(self._in_force(policy, family) for family in self._matches)

    def remove(self) -> None:
        """Take the rules out; those of other lists stay. Idempotent.

        The last list takes the jumps with it, and the shared chain too unless the allow list has entries: then it stays
        in mangle, where nothing jumps to it, for the next list. Raises InvalidRuleError if a rule of somebody else
        jumps to the list's chains. A list of recent or hashlimit that no other rule names is gone then: no hold is put
        in place, but one that is there already keeps it.
        """
        for table in TABLES:
            self._remove_from(table)

    def allowed(self) -> list[tuple[Kind, bytes]]:
        """The allow list, which is one for all lists with rules in legacy tables, as (kind, key)."""
        return legacy_allow.allowed()

    def allow(self, kind: Kind, keys: bytes) -> None:
        """Let packets from these addresses past all lists. Keys that are in already change nothing."""
        legacy_allow.allow(kind, keys)

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """Take addresses out of the allow list; how many were in."""
        return legacy_allow.disallow(kind, keys)

    def _install(self, policy: Policy, tx: Transaction, now: TableHandle) -> None:
        wanted = self._wanted(policy, now.family)
        for chain in (SHARED_CHAIN, *wanted):
            if not now.has_chain(chain):
                tx.new_chain(chain)
        for chain, rules in wanted.items():
            if rules_of(now, chain) != rules:
                tx.flush(chain)
                for rule in rules:
                    tx.append(chain, rule)
        if now.name != HOME and HOME in in_use(now.family):
            with TableHandle(HOME, now.family) as home:
                let_pass(allowances(home), tx, now)
        own = _from_self(now.family)
        if own not in rules_of(now, SHARED_CHAIN):
            tx.insert(SHARED_CHAIN, own)
        jump = jump_to(self._sources, now.family)
        if jump not in rules_of(now, SHARED_CHAIN):
            tx.append(SHARED_CHAIN, jump)
        for base in _BASES:
            _put_first(jump_to(SHARED_CHAIN, now.family), base, tx, now)

    def _remove_from(self, table: str) -> None:
        for family in self._matches:
            if table in in_use(family):
                change(table, family, self._remove, hold=False)

    def _remove(self, tx: Transaction, now: TableHandle) -> None:
        jump = jump_to(self._sources, now.family)
        shared = [rule for rule in rules_of(now, SHARED_CHAIN) if rule != _from_self(now.family)]
        rest = [rule for rule in shared if rule != jump]
        for _ in range(len(shared) - len(rest)):
            tx.delete(SHARED_CHAIN, jump)
        chains = [chain for chain in self.chains if now.has_chain(chain)]
        for chain in chains:
            tx.flush(chain)
        for chain in chains:
            tx.delete_chain(chain)
        if not chains and len(rest) == len(shared):
            return
        if len(rest) > len(allowances(now)):
            return
        to_shared = jump_to(SHARED_CHAIN, now.family)
        for base in _BASES:
            for _ in range(rules_of(now, base).count(to_shared)):
                tx.delete(base, to_shared)
        for _ in range(rules_of(now, SHARED_CHAIN).count(_from_self(now.family))):
            tx.delete(SHARED_CHAIN, _from_self(now.family))
        if not rest or now.name != HOME:
            for rule in rest:
                tx.delete(SHARED_CHAIN, rule)
            delete_unless_used(tx, SHARED_CHAIN)

    def _in_force(self, policy: Policy, family: Family) -> bool:
        table = _TABLE_OF[policy.action]
        if table not in in_use(family):
            return not has_addresses(family)
        with TableHandle(table, family) as handle:
            return (
                handle.has_chain(self._sources)
                and handle.has_chain(self._verdicts)
                and _reached(rules_of(handle, SHARED_CHAIN), jump_to(self._sources, family))
                and all(_reached(rules_of(handle, base), jump_to(SHARED_CHAIN, family)) for base in _BASES)
                and all(rules_of(handle, chain) == rules for chain, rules in self._wanted(policy, family).items())
            )

    def _wanted(self, policy: Policy, family: Family) -> dict[str, list[Rule]]:
        said = with_comment(f"{self._title}{policy}")
        return {
            self._sources: [
                Rule.parse(f"{match} {said} -g {self._verdicts}", family) for match in self._matches[family]
            ],
            self._verdicts: [Rule.parse(text, family) for text in verdicts(policy, family)],
        }


_TABLE_OF = MappingProxyType({Action.DROP: HOME, Action.COUNT: HOME, Action.REJECT: "filter"})
_BASES = ("INPUT", "FORWARD")
_LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1
_ENDS = ("ACCEPT", "DROP", "QUEUE", "RETURN")


def _chain_name(prefix: str, name: str) -> str:
    """The name itself, if that fits; else its beginning, and a digest behind a sign that no list's name has."""
    room = _LONGEST_CHAIN_NAME - len(prefix)
    if len(name) <= room:
        return prefix + name
    digest = base64.b32encode(hashlib.blake2s(name.encode()).digest())[:8].decode().lower()
    return f"{prefix}{name[: room - 9]}~{digest}"


def _from_self(family: Family) -> Rule:
    return Rule.parse("-i lo -j RETURN", family)


def _put_first(jump: Rule, chain: str, tx: Transaction, now: TableHandle) -> None:
    rules = rules_of(now, chain)
    if rules[:1] == [jump] and rules.count(jump) == 1:
        return
    for _ in range(rules.count(jump)):
        tx.delete(chain, jump)
    tx.insert(chain, next((rule for rule in rules if rule == jump), jump))  # with its counters, if it was there


def _reached(rules: list[Rule], jump: Rule) -> bool:
    """Whether packets get to the jump; a rule with conditions before it may let some pass, as its owner wants."""
    if jump not in rules:
        return False
    ends = {Rule.parse(f"-j {verdict}", jump.family) for verdict in _ENDS}
    return ends.isdisjoint(rules[: rules.index(jump)])
