"""The rules of ban lists in legacy iptables tables: one shared chain, and two chains for each list.

    INPUT, FORWARD       -j nfkeep, as first rule
    nfkeep               -s NET -j RETURN for each entry of the allow list, then -j nfkeep/NAME for each list
    nfkeep/NAME          MATCH -g nfkeep:NAME for each way to come from a banned source
    nfkeep:NAME          what happens to such a packet, by service

Lists that drop or count are in the table mangle, which few programs edit; those that reject are in filter, where alone
the kernel lets them. Everything here goes through a transaction, so that the host's own state lives on; a ban doesn't
come here. All of it concerns the network namespace of the calling thread.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs

from nfkeep.bans.legacy_verdicts import verdicts
from nfkeep.bans.values import Action, Kind, Policy, address_of, services
from nfkeep.errors import ConflictError, InvalidRuleError, UnsupportedError
from nfkeep.keep.transaction import Transaction
from nfkeep.model import Family, Rule
from nfkeep.xtables.entry import Entry, decode
from nfkeep.xtables.tables import TableHandle, in_use

__all__ = ["LONGEST_NAME", "SHARED_CHAIN", "LegacyRules"]

#: The longest name of a list; with it, what the comment says still fits into XT_MAX_COMMENT_LEN.
LONGEST_NAME = 199

SHARED_CHAIN = "nfkeep"


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

    def policy(self) -> Policy | None:
        """What the rules that are there do, as their comments say it; None if there are none.

        Raises InvalidListError if somebody has rewritten the comments.
        """
        for table in _TABLES:
            for family in self._matches:
                if table not in in_use(family):
                    continue
                with TableHandle(table, family) as handle:
                    titles = [text for rule in _rules(handle, self._sources) if (text := _comment(rule))]
                    said = [text for rule in _rules(handle, self._verdicts) if (text := _comment(rule))]
                for title in titles:
                    if title.startswith(self._title):
                        return attrs.evolve(Policy.parse(title[len(self._title) :]), services=services(said))
        return None

    def install(self, policy: Policy) -> None:
        """Put the rules in place, or others in their place: one atomic step for each table, none that changes nothing.

        A list that goes to the other table is in both for a moment, and never in none. The jumps of INPUT and FORWARD
        are (again) the first rules there.
        """
        families = [family for family in self._matches if _usable(_TABLE_OF[policy.action], family)]
        for family in families:
            _change(_TABLE_OF[policy.action], family, lambda tx, now: self._install(policy, tx, now))
        for table in _TABLES:
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
        for table in _TABLES:
            self._remove_from(table)

    def allowed(self) -> list[tuple[Kind, bytes]]:
        """The allow list, which is one for all lists with rules in legacy tables, as (kind, key)."""
        found = []
        for family in Family:
            if _HOME in in_use(family):
                with TableHandle(_HOME, family) as handle:
                    found += [_key(decode(rule)) for rule in _allowances(handle)]
        return found

    def allow(self, kind: Kind, keys: bytes) -> None:
        """Let packets from these addresses past all lists. Keys that are in already change nothing."""
        rules = _allow_rules(kind, keys)

        def edit(tx: Transaction, now: TableHandle) -> None:
            if not now.has_chain(SHARED_CHAIN):
                tx.new_chain(SHARED_CHAIN)
            _let_pass(rules, tx, now)

        # The home first: whoever makes the other chain meanwhile copies from there, or is found by the second step.
        _require(_HOME, kind.family)
        _change(_HOME, kind.family, edit)
        for table in _copies(kind.family):
            _change(table, kind.family, lambda tx, now: _let_pass(rules, tx, now))

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """Take addresses out of the allow list; how many were in."""
        rules = frozenset(_allow_rules(kind, keys))
        found = 0

        def edit(tx: Transaction, now: TableHandle) -> None:
            nonlocal found
            present = _rules(now, SHARED_CHAIN)
            gone = [rule for rule in present if rule in rules]
            found = len(set(gone))
            for rule in gone:
                tx.delete(SHARED_CHAIN, rule)
            if gone and len(gone) == len(present):
                _delete_unless_used(tx, SHARED_CHAIN)

        for table in _copies(kind.family):
            _change(table, kind.family, edit)
        if _HOME in in_use(kind.family):
            found = 0
            _change(_HOME, kind.family, edit)
        return found

    def _install(self, policy: Policy, tx: Transaction, now: TableHandle) -> None:
        wanted = self._wanted(policy, now.family)
        for chain in (SHARED_CHAIN, *wanted):
            if not now.has_chain(chain):
                tx.new_chain(chain)
        for chain, rules in wanted.items():
            if _rules(now, chain) != rules:
                tx.flush(chain)
                for rule in rules:
                    tx.append(chain, rule)
        if now.name != _HOME and _HOME in in_use(now.family):
            with TableHandle(_HOME, now.family) as home:
                _let_pass(_allowances(home), tx, now)
        jump = _jump(self._sources, now.family)
        if jump not in _rules(now, SHARED_CHAIN):
            tx.append(SHARED_CHAIN, jump)
        for base in _BASES:
            _put_first(_jump(SHARED_CHAIN, now.family), base, tx, now)

    def _remove_from(self, table: str) -> None:
        for family in self._matches:
            if table in in_use(family):
                _change(table, family, self._remove, hold=False)

    def _remove(self, tx: Transaction, now: TableHandle) -> None:
        jump = _jump(self._sources, now.family)
        shared = _rules(now, SHARED_CHAIN)
        rest = [rule for rule in shared if rule != jump]
        for _ in range(len(shared) - len(rest)):
            tx.delete(SHARED_CHAIN, jump)
        chains = [chain for chain in (self._sources, self._verdicts) if now.has_chain(chain)]
        for chain in chains:
            tx.flush(chain)
        for chain in chains:
            tx.delete_chain(chain)
        if not chains and len(rest) == len(shared):
            return
        allowances = _allowances(now)
        if len(rest) > len(allowances):
            return
        to_shared = _jump(SHARED_CHAIN, now.family)
        for base in _BASES:
            for _ in range(_rules(now, base).count(to_shared)):
                tx.delete(base, to_shared)
        if not rest or now.name != _HOME:
            for rule in rest:
                tx.delete(SHARED_CHAIN, rule)
            _delete_unless_used(tx, SHARED_CHAIN)

    def _in_force(self, policy: Policy, family: Family) -> bool:
        table = _TABLE_OF[policy.action]
        if table not in in_use(family):
            return not _has_addresses(family)
        with TableHandle(table, family) as handle:
            return (
                handle.has_chain(self._sources)
                and handle.has_chain(self._verdicts)
                and _reached(_rules(handle, SHARED_CHAIN), _jump(self._sources, family))
                and all(_reached(_rules(handle, base), _jump(SHARED_CHAIN, family)) for base in _BASES)
                and all(_rules(handle, chain) == rules for chain, rules in self._wanted(policy, family).items())
            )

    def _wanted(self, policy: Policy, family: Family) -> dict[str, list[Rule]]:
        title = self._title + str(attrs.evolve(policy, services=()))
        return {
            self._sources: [
                Rule.parse(f'{match} -m comment --comment "{title}" -g {self._verdicts}', family)
                for match in self._matches[family]
            ],
            self._verdicts: [Rule.parse(text, family) for text in verdicts(policy, family)],
        }


_HOME = "mangle"
"""The table that has the allow list, with or without any ban list; elsewhere are copies, while there are lists."""
_TABLES = (_HOME, "filter")
_TABLE_OF = MappingProxyType({Action.DROP: _HOME, Action.COUNT: _HOME, Action.REJECT: "filter"})
_BASES = ("INPUT", "FORWARD")
_TRIES = 5
_LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1
_ENDS = ("ACCEPT", "DROP", "QUEUE", "RETURN")


def _change(table: str, family: Family, edit: Callable[[Transaction, TableHandle], None], *, hold: bool = True) -> None:
    """One transaction; `edit` finds the table as it is, under the lock, in the handle that it gets.

    A program that ignores the lock may come in between: then all is read and decided anew.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            with Transaction(table, family, hold=hold) as tx, TableHandle(table, family) as now:
                edit(tx, now)
            return
        except ConflictError:
            if not tries_left:
                raise


def _usable(table: str, family: Family) -> bool:
    """Whether the table is there, or can be; False for IPv6 on a host without it. Raises UnsupportedError."""
    try:
        _require(table, family)
    except UnsupportedError:
        if _has_addresses(family):
            raise
        return False
    return True


def _require(table: str, family: Family) -> None:
    try:
        TableHandle(table, family).close()
    except (UnsupportedError, InvalidRuleError) as error:
        module = f"{'ip6' if family is Family.IPV6 else 'ip'}table_{table}"
        raise UnsupportedError(
            f"the {family} table {table} is not to be had on this host ({error}): load the kernel module {module}",
            feature=module,
        ) from None


def _has_addresses(family: Family) -> bool:
    """Whether this host speaks the family at all."""
    return family is Family.IPV4 or os.path.exists("/proc/thread-self/net/if_inet6")


def _chain_name(prefix: str, name: str) -> str:
    """The name itself, if that fits; else its beginning, and a digest behind a sign that no list's name has."""
    room = _LONGEST_CHAIN_NAME - len(prefix)
    if len(name) <= room:
        return prefix + name
    digest = base64.b32encode(hashlib.blake2s(name.encode()).digest())[:8].decode().lower()
    return f"{prefix}{name[: room - 9]}~{digest}"


def _rules(handle: TableHandle, chain: str) -> list[Rule]:
    return list(handle.rules(chain)) if handle.has_chain(chain) else []


def _jump(chain: str, family: Family) -> Rule:
    return Rule.parse(f"-j {chain}", family)


def _comment(rule: Rule) -> str:
    texts = (match.data.split(b"\0")[0] for match in decode(rule).matches if match.name == "comment")
    return next(texts, b"").decode(errors="replace")


def _put_first(jump: Rule, chain: str, tx: Transaction, now: TableHandle) -> None:
    rules = _rules(now, chain)
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


def _delete_unless_used(tx: Transaction, chain: str) -> None:
    try:
        tx.delete_chain(chain)
    except InvalidRuleError:  # a rule of somebody else jumps to it
        pass


def _copies(family: Family) -> list[str]:
    """Tables besides the home that have a shared chain."""
    found = []
    for table in in_use(family):
        if table in _TABLES and table != _HOME:
            with TableHandle(table, family) as handle:
                found += [table] * handle.has_chain(SHARED_CHAIN)
    return found


def _allow_rules(kind: Kind, keys: bytes) -> list[Rule]:
    size = kind.key_bytes
    each = (keys[at : at + size] for at in range(0, len(keys), size))
    return [_allow_rule(kind, key) for key in each]


def _allow_rule(kind: Kind, key: bytes) -> Rule:
    return Rule.parse(f"-s {address_of(kind, key)} -j RETURN", kind.family)


def _let_pass(rules: Sequence[Rule], tx: Transaction, now: TableHandle) -> None:
    present = frozenset(_rules(now, SHARED_CHAIN))
    for rule in rules:
        if rule not in present:
            tx.insert(SHARED_CHAIN, rule)


def _allowances(handle: TableHandle) -> list[Rule]:
    """The rules of the shared chain that are entries of the allow list, and not somebody's own."""
    return [rule for rule in _rules(handle, SHARED_CHAIN) if rule == _allow_rule(*_key(decode(rule)))]


def _key(entry: Entry) -> tuple[Kind, bytes]:
    """What an entry of the allow list stands for."""
    is_network = entry.source_mask != b"\xff" * len(entry.source_mask)
    kind = Kind((entry.family is Family.IPV6) + 2 * is_network)
    return kind, entry.source + (entry.source_mask if is_network else b"")
