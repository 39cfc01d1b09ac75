"""Runs the real iptables with the state of its tables kept: gate and restoration around somebody else's replace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import attrs

from nfkeep.errors import InvalidRuleError, PermissionDeniedError, UnsupportedError
from nfkeep.keep.arguments import Arguments, read_arguments
from nfkeep.keep.change import Change, Replaced, apply
from nfkeep.keep.journal import Note
from nfkeep.keep.observe import Observation, observe_table
from nfkeep.keep.plan import can_hold
from nfkeep.keep.recovery import recover_locked
from nfkeep.keep.report import Report
from nfkeep.model import Family
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import TABLES, in_use, read, read_image


@attrs.frozen(slots=True)
class Finished:
    """A run of iptables: its exit status, which binary it was, and what became of the state (None: nothing to do)."""

    status: int
    binary: str
    report: Report | None


def run_iptables(family: Family, arguments: Sequence[str]) -> Finished:
    """Run iptables or ip6tables with `arguments`, unchanged, with stdin, stdout and stderr of this process.

    The binary is the legacy one if legacy tables hold rules here, else what `iptables` on PATH is; the nft variant
    keeps the state of the rules that it does not touch, so for it nothing is done. Raises UnsupportedError if there is
    no iptables, PermissionDeniedError; every error of iptables itself is its own text and exit status.
    """
    binary, legacy = find_binary(family)
    parsed = read_arguments(arguments)
    if not legacy or parsed.only_reads or parsed.table not in TABLES:
        return Finished(_run(binary, arguments, None), binary, None)
    with XtablesLock() as lock, open(os.memfd_create("nfkeep-lock"), "rb") as private:
        recovered = recover_locked()
        finished = _run_kept(family, parsed, binary, arguments, _Locks(lock.fileno(), private.fileno()))
    if not recovered:
        return finished
    return attrs.evolve(finished, report=attrs.evolve(finished.report or Report(), recovered=recovered))


@attrs.frozen(slots=True)
class _Locks:
    """Descriptors for the child: the real lock, which it thereby holds even if we are killed, and one of its own.

    That one it takes in our stead; it would wait for us for ever if it took the real one.
    """

    held: int
    private: int


def find_binary(family: Family) -> tuple[str, bool]:
    """The iptables to run in this network namespace, and whether it is the legacy one."""
    name = "ip6tables" if family is Family.IPV6 else "iptables"
    usual, legacy = shutil.which(name), shutil.which(f"{name}-legacy")
    usual_is_legacy = usual is not None and _is_legacy(usual)
    if usual_is_legacy and usual is not None:
        return usual, True
    if legacy is not None and (usual is None or _legacy_in_use()):
        return legacy, True
    if usual is None:
        raise UnsupportedError(f"there is no {name} on PATH; install the package iptables", feature=name)
    return usual, False


def _run_kept(family: Family, parsed: Arguments, binary: str, arguments: Sequence[str], locks: _Locks) -> Finished:
    try:
        before = observe_table(family, parsed.table)
    except (InvalidRuleError, UnsupportedError):
        return Finished(_run(binary, arguments, locks), binary, None)  # its own words are better than ours
    counters = _counters(family, parsed.table) if any(before.stateful()) else ()
    status = 0

    def replace(_note: Note) -> Replaced | None:
        nonlocal status
        status = _run(binary, arguments, locks)
        after = observe_table(family, parsed.table)
        replaced = status == 0 or _was_replaced(before, after, counters)
        return Replaced(after, quotas=None) if replaced else None

    holds = before.named().items() if parsed.may_remove else ()
    report = apply(
        [Change(before, read_image(parsed.table, family), replace)],
        [(family, key, extension) for key, extension in holds if can_hold(key)],
    )
    return Finished(status, binary, report)


def _was_replaced(before: Observation, after: Observation, counters: tuple[int, ...]) -> bool:
    """Whether a run that failed had replaced the table all the same: other rules, or counters that went back."""
    if before.found != after.found or before.chains != after.chains:
        return True
    now = _counters(before.family, before.table) if counters else ()
    return len(now) != len(counters) or any(new < old for new, old in zip(now, counters, strict=True))


def _counters(family: Family, table: str) -> tuple[int, ...]:
    chains = read(table, family).chains.values()
    return tuple(rule.counters.packets for chain in chains for rule in chain.rules)


def _run(binary: str, arguments: Sequence[str], locks: _Locks | None) -> int:
    if locks is None:
        return subprocess.run([binary, *arguments], check=False).returncode
    environment = {**os.environ, "XTABLES_LOCKFILE": f"/proc/self/fd/{locks.private}"}
    descriptors = (locks.held, locks.private)
    return subprocess.run([binary, *arguments], env=environment, pass_fds=descriptors, check=False).returncode


def _is_legacy(binary: str) -> bool:
    # The name that a link such as /etc/alternatives/iptables ends in tells; only a plain binary has to be asked.
    target = os.path.basename(os.path.realpath(binary))
    if "legacy" in target or "nft" in target:
        return "legacy" in target
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return "nf_tables" not in said


def _legacy_in_use() -> bool:
    """Whether legacy tables of either family hold anything: a rule, a user chain, or a policy other than ACCEPT."""
    try:
        tables = [read(name, family) for family in Family for name in in_use(family)]
    except PermissionDeniedError:
        return False  # iptables itself has better words for that
    return any(chain.rules or chain.policy != "ACCEPT" for table in tables for chain in table.chains.values())
