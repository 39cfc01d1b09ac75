"""What a health check of legacy tables has to know of a host.

It only looks, at the network namespace of the calling thread.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.ipset.messages import Header
from nfkeep.keep import hold, journal
from nfkeep.keep.health_kernel import Kernel, self_test
from nfkeep.keep.health_marks import used_by_rules, used_in_listing
from nfkeep.keep.observe import Found, Observation, StateKey, observe
from nfkeep.keep.overview import State, overview
from nfkeep.model import Family
from nfkeep.nft.chains import SeenChain, filtering_chains
from nfkeep.nft.lasting import TABLE
from nfkeep.xtables import hashlimit, recent
from nfkeep.xtables.entry import decode
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.stateful import extensions
from nfkeep.xtables.tables import TableHandle, in_use
from nfkeep.xtables.text import split

_SET_OPTIONS = frozenset({"--match-set", "--add-set", "--del-set", "--map-set"})


@attrs.frozen(slots=True)
class Seen:
    """What the checks are about.

    `tables`: with all their rules, unlike those of `observe`. `policies`: by family, table and base chain. `marks`: the
    bits of the packet mark that are in use. `sets`: of ipset, that rules name. `entries`: how much is in each named
    state. `held`: the states that holds keep alive. `nft`: base chains of others. `iptables`: what the plain command
    edits, "legacy" or "nf_tables", None without one. `lock`: the directory that is missing for the xtables lock, if so.
    `unfinished`: the tables of each change that a killed process left in the middle.
    """

    kernel: Kernel = attrs.field(factory=Kernel)
    tables: tuple[Observation, ...] = ()
    policies: Mapping[tuple[Family, str, str], str] = attrs.field(factory=dict)
    states: tuple[State, ...] = ()
    marks: int = 0
    sets: tuple[Header, ...] = ()
    entries: Mapping[tuple[Family, StateKey], int] = attrs.field(factory=dict)
    held: frozenset[tuple[Family, StateKey]] = frozenset()
    nft: tuple[SeenChain, ...] = ()
    iptables: str | None = None
    lock: str = ""
    unfinished: tuple[str, ...] = ()

    def of(self, family: Family) -> dict[str, Observation]:
        """The tables of a family by name."""
        return {table.table: table for table in self.tables if table.family is family}


def seen() -> Seen:
    """How this host is now. Raises PermissionDeniedError, CommitError."""
    tables, policies = [], {}
    for family in Family:
        for name in in_use(family):
            with TableHandle(name, family) as handle:
                tables.append(_everything(handle))
                for chain in handle.chains():
                    if (policy := handle.policy(chain)) is not None:
                        policies[family, name, chain] = policy[0]
    nft = _nft()
    return Seen(
        kernel=self_test(),
        unfinished=tuple(journal.tables_of(flight.before) for _, flight in journal.left_behind() if flight is not None),
        tables=tuple(tables),
        policies=policies,
        states=_states(),
        marks=used_by_rules(tables) | _marks_elsewhere(bool(nft)),
        sets=tuple(_sets(tables)),
        entries=dict(_entries(tables)),
        held=frozenset((family, key) for family in Family for key in hold.held(family)),
        nft=nft,
        iptables=_iptables(),
        lock=_no_lock(),
    )


def is_own(chain: str) -> bool:
    """Whether a chain of a legacy table is nfkeep's own: a hold, or one of a ban list."""
    return chain in (hold.CHAIN, TABLE) or chain.startswith((f"{TABLE}/", f"{TABLE}:"))


def _everything(handle: TableHandle) -> Observation:
    found = (
        Found(chain, position, rule, decode(rule))
        for chain in handle.chains()
        for position, rule in enumerate(handle.rules(chain), 1)
    )
    return attrs.evolve(observe(handle), found=tuple(found))


def _states() -> tuple[State, ...]:
    try:
        return overview()
    except UnsupportedError:  # the self-test has words for that
        return ()


def _nft() -> tuple[SeenChain, ...]:
    try:
        chains = filtering_chains()
    except UnsupportedError:
        return ()
    return tuple(c for c in chains if c.rules and c.table != TABLE and not c.table.startswith(f"{TABLE}-"))


def _marks_elsewhere(nft: bool) -> int:
    """The bits that routing and nftables use; programs that are not there use none."""
    commands = [["ip", "rule"], ["ip", "-6", "rule"]]
    if nft:
        commands.append(["nft", "-s", "-t", "list", "ruleset"])
    used = 0
    for command in commands:
        if shutil.which(command[0]) is not None:
            used |= used_in_listing(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return used


def _sets(tables: Iterable[Observation]) -> Iterable[Header]:
    names = dict.fromkeys(
        name
        for table in tables
        for found in table.found
        if not is_own(found.chain) and any(each.name in ("set", "SET") for each in extensions(found.entry))
        for name in _named_sets(str(found.rule))
    )
    if not names:
        return
    from nfkeep.ipset.sets import Sets

    sets = Sets()
    try:
        for name in names:
            if (header := sets.header(name)) is not None:
                yield header
    finally:
        sets.close()


def _named_sets(rule: str) -> Iterable[str]:
    words = split(rule)
    return [name for option, name in itertools.pairwise(words) if option in _SET_OPTIONS]


def _entries(tables: Iterable[Observation]) -> Iterable[tuple[tuple[Family, StateKey], int]]:
    for table in tables:
        for key in table.named():
            kind, name = key
            count = None
            if kind == recent.NAME:
                count = recent.entries(name)
            elif kind == hashlimit.NAME:
                count = hashlimit.buckets(name, table.family)
            if count is not None:
                yield (table.family, key), count


def _iptables() -> str | None:
    if shutil.which("iptables") is None:
        return None
    said = subprocess.run(["iptables", "--version"], capture_output=True, text=True, check=False).stdout
    return "nf_tables" if "nf_tables" in said else "legacy"


def _no_lock() -> str:
    path = XtablesLock().path
    directory = os.path.dirname(path) or "."
    return "" if os.path.exists(path) or os.access(directory, os.W_OK) else directory
