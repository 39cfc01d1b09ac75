"""What is wrong, or soon will be, with the state in the legacy tables of a host: the checks, as values.

`examine` looks once, at everything; each check is a pure function of what was seen, and yields good news too.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from nfkeep.ipset.messages import WITH_FORCEADD
from nfkeep.keep import health_kernel, hold
from nfkeep.keep.health_buckets import buckets, resets
from nfkeep.keep.health_finding import NEAR, Finding, Severity
from nfkeep.keep.health_limits import connection_limits
from nfkeep.keep.health_owners import owners
from nfkeep.keep.health_seen import Seen, is_own, seen
from nfkeep.keep.observe import Observation, state_key
from nfkeep.model import Family, Hook
from nfkeep.xtables import connlimit, hashlimit, recent
from nfkeep.xtables.stateful import extensions
from nfkeep.xtables.tables import TABLES


def examine() -> tuple[Finding, ...]:
    """What all checks find in this network namespace. Nothing is changed.

    Raises PermissionDeniedError, or another NfkeepError if something cannot be looked at.
    """
    host = seen()
    return tuple(finding for check in CHECKS for finding in check(host))


def kernel(host: Seen) -> Iterator[Finding]:
    """The self-test."""
    limited = any(any(found.matches(connlimit.NAME)) for table in host.tables for found in table.found)
    yield from health_kernel.kernel(host.kernel, needed=limited)
    if not any(any(not is_own(found.chain) for found in table.found) for table in host.tables):
        yield Finding(Severity.OK, "there are no rules in legacy tables here")
    if host.lock:
        what = f"the directory {host.lock} of the xtables lock cannot be written to"
        why = "iptables goes on without the lock, so that two programs can undo each other's changes"
        yield Finding(Severity.WARN, what, why, f"mkdir -p {shlex.quote(host.lock)}")


def unfinished(host: Seen) -> Iterator[Finding]:
    """Changes that were cut off."""
    for tables in host.unfinished:
        what = f"a change of {tables} was cut off: its process was killed"
        why = "live connections may not be counted again yet, or only some of these tables were changed"
        yield Finding(Severity.BAD, what, why, "nfkeep recover")


def edited(host: Seen) -> Iterator[Finding]:
    """Which programs edit which table."""
    for table in host.tables:
        for program, chain in owners(table.chains).items():
            yield Finding(Severity.OK, f"{program} edits {table.family} {table.table} (it has the chain {chain} there)")


def named(host: Seen) -> Iterator[Finding]:
    """Lists and tables that die when a program rebuilds the one table that names them."""
    for family in Family:
        tables = host.of(family).values()
        for table in tables:
            programs = list(owners(table.chains))
            keys = _used_keys(table)
            for key in sorted(keys):
                kind, name = key
                elsewhere = any(key in _used_keys(other) for other in tables if other is not table)
                if not programs or elsewhere or (family, key) in host.held or kind not in _HOLDABLE:
                    continue
                count = host.entries.get((family, key), 0)
                yield Finding(
                    Severity.WARN,
                    f"{kind} {name} ({count} entries): only rules in {family} {table.table} name it, "
                    f"which {' and '.join(programs)} edit{'s' if len(programs) == 1 else ''}",
                    "when the table is flushed and built again, as by a restart, its entries are gone",
                    f"nfkeep hold {shlex.quote(f'{kind}:{name}')}",
                )


def holds(host: Seen) -> Iterator[Finding]:
    """What the chain of holds keeps alive."""
    for family, key in sorted(host.held, key=lambda each: (each[0].value, each[1])):
        kind, name = key
        what = f"{kind} {name}: held by a rule in the chain {hold.CHAIN} ({host.entries.get((family, key), 0)} entries)"
        if any(key in _used_keys(table) for table in host.of(family).values()):
            yield Finding(Severity.OK, what)
        else:
            why = f"no other {family} rule names it any more; it waits for one, and until then does nothing"
            yield Finding(Severity.WARN, what, why, f"nfkeep release {shlex.quote(f'{kind}:{name}')}   # if none will")


def set_sizes(host: Seen) -> Iterator[Finding]:
    """Sets of ipset that rules name, near their size; those of ban lists have a check of their own."""
    near = False
    for each in host.sets:
        if each.name.startswith("nfkeep-") or not each.size or each.used is None or each.flags & WITH_FORCEADD:
            continue
        if each.used < each.size * NEAR:
            continue
        near = True
        name, larger = shlex.quote(each.name), shlex.quote(f"{each.name[:26]}-more")
        expires = f"; its entries last {each.timeout} s" if each.timeout else ""
        yield Finding(
            Severity.BAD if each.used >= each.size else Severity.WARN,
            f"ipset {each.name}: {each.used} of {each.size} entries{expires}",
            "a full set takes no more entries: who should be added is not, by a SET rule without a word",
            f"ipset save {name} | sed 's/^create [^ ]* /create {larger} /; s/^add [^ ]* /add {larger} /; "
            f"s/ maxelem [0-9]*/ maxelem {2 * each.size}/' | ipset restore\n"
            f"ipset swap {name} {larger} && ipset destroy {larger}",
        )
    if host.sets and not near:
        yield Finding(Severity.OK, "no ipset that rules name is near its size")


def two_worlds(host: Seen) -> Iterator[Finding]:
    """Rules of others in legacy tables and in nftables."""
    legacy = [table for table in host.tables if _has_rules(host, table)]
    nft = sorted({f"{chain.family} {chain.table}" for chain in host.nft})
    compat = {f"{c.family} {c.table}" for c in host.nft if c.table in TABLES and c.name in Hook.__members__}
    if not legacy or not nft:
        return
    in_nft = ", ".join(f"{name}, made by iptables-nft" if name in compat else name for name in nft)
    why = "a packet has to get past both: a DROP in either is final, and an ACCEPT in one does not spare it the other"
    fix = "iptables-legacy-save; ip6tables-legacy-save; nft list ruleset   # keep the rules of one of them"
    if compat:
        plain = "iptables-legacy" if host.iptables == "legacy" else "iptables-nft"
        fix = (
            f"iptables-legacy-save; iptables-nft-save   # see both; on this host, iptables is {plain}\n"
            "update-alternatives --set iptables /usr/sbin/iptables-legacy   # if you keep the legacy tables, or\n"
            "update-alternatives --set iptables /usr/sbin/iptables-nft   # if not; then move the other's rules over"
        )
    yield Finding(
        Severity.WARN,
        f"rules in legacy tables ({', '.join(f'{t.family} {t.table}' for t in legacy)}) and in nftables ({in_nft})",
        "; ".join(filter(None, (why, _order(host, legacy)))),
        fix,
    )


CHECKS: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    kernel,
    unfinished,
    edited,
    connection_limits,
    resets,
    buckets,
    named,
    holds,
    set_sizes,
    two_worlds,
)
"""In the order in which their findings are told."""

_HOLDABLE = (recent.NAME, hashlimit.NAME)


def _used_keys(table: Observation) -> set[tuple[str, str]]:
    """The named states that rules of others name."""
    return {
        key
        for found in table.found
        if not is_own(found.chain)
        for extension in extensions(found.entry)
        if (key := state_key(extension)) is not None
    }


def _has_rules(host: Seen, table: Observation) -> bool:
    """A policy but ACCEPT, or a rule in a chain that is not of nfkeep, other than the jump to one."""
    policies = (host.policies.get((table.family, table.table, chain), "ACCEPT") for chain in table.chains)
    return any(policy != "ACCEPT" for policy in policies) or any(
        not is_own(found.chain) and not is_own(found.entry.jump or "") for found in table.found
    )


def _order(host: Seen, legacy: list[Observation]) -> str:
    """In which order packets meet them, for each hook where they meet both."""
    told = []
    for family in Family:
        for hook in (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT):
            mine = {
                (TABLES[table.table].priority, f"legacy {table.table}")
                for table in legacy
                if table.family is family and _acts(host, table, hook.name)
            }
            of_family = ("inet", "ip6" if family is Family.IPV6 else "ip")
            nft = {(c.priority, f"{c.family} {c.table}") for c in host.nft if c.hook == hook and c.family in of_family}
            if mine and nft:
                order = ", ".join(f"{name} ({priority})" for priority, name in sorted(mine | nft))
                told.append(f"{family} {hook.name}: {order}")
    return f"in order (of the same number, first the one set up last) {'; '.join(told)}" if told else ""


def _acts(host: Seen, table: Observation, chain: str) -> bool:
    """Whether anything can happen to a packet in a base chain."""
    policy = host.policies.get((table.family, table.table, chain), "ACCEPT")
    return policy != "ACCEPT" or any(found.chain == chain for found in table.found)
