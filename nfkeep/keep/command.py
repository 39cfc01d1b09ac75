"""Runs the real iptables with the state of its tables kept: gate and restoration around somebody else's replace."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Sequence

import attrs

from nfkeep.errors import ConflictError, InvalidRuleError, PermissionDeniedError, UnsupportedError
from nfkeep.keep.arguments import Arguments, read_arguments
from nfkeep.keep.change import Change, Replaced, apply
from nfkeep.keep.hold import estimators_unlike, lost, take_down
from nfkeep.keep.journal import Note
from nfkeep.keep.observe import Observation, observe_table
from nfkeep.keep.plan import can_hold, limited
from nfkeep.keep.recovery import recover_locked
from nfkeep.keep.report import Report
from nfkeep.model import Family
from nfkeep.xtables.image import Image
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import TABLES, TableHandle, in_use, read, read_image


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
    no iptables, LockTimeoutError after as long as `-w` says, or a minute, PermissionDeniedError; every error of
    iptables itself is its own text and exit status.
    """
    binary, legacy = find_binary(family)
    parsed = read_arguments(arguments)
    if not legacy or parsed.only_reads:
        return Finished(_run(binary, arguments, None), binary, None)
    with XtablesLock(parsed.wait_seconds) as lock, open(os.memfd_create("nfkeep-lock"), "rb") as private:
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
        befores = [observe_table(family, table) for table in _tables(family, parsed)]
    except (InvalidRuleError, UnsupportedError):
        return Finished(_run(binary, arguments, locks), binary, None)  # its own words are better than ours
    if not befores:
        return Finished(_run(binary, arguments, locks), binary, None)
    images = [read_image(before.table, family) for before in befores]
    status = 0
    refused = estimators_unlike(family, arguments)
    told = list(lost(family, refused))

    @functools.cache
    def run() -> dict[str, Replaced | None]:
        nonlocal status
        told.extend(take_down(family, refused))
        status = _run(binary, arguments, locks)
        replaced = _replaced(befores, images, status)
        return {
            name: Replaced(observe_table(family, name), quotas=None) if name in replaced else None
            for name in (before.table for before in befores)
        }

    def replace(table: str, _note: Note) -> Replaced | None:
        return run()[table]

    named = {key: extension for before in befores for key, extension in before.named().items()}
    report = apply(
        [
            Change(before, image, functools.partial(replace, before.table))
            for before, image in zip(befores, images, strict=True)
        ],
        [(family, key, named[key]) for key in named if parsed.may_remove and can_hold(key)],
        together=False,  # of several only one is the table that iptables changes
    )
    return Finished(status, binary, attrs.evolve(report, outcomes=(*report.outcomes, *told)))


def _tables(family: Family, parsed: Arguments) -> Sequence[str]:
    """The tables to look after: the one that is asked for; if that is in doubt, all that it can be."""
    if len(parsed.tables) == 1 and parsed.tables <= TABLES.keys():
        return tuple(parsed.tables)
    possible = parsed.tables & TABLES.keys() or TABLES.keys()
    return [name for name in in_use(family) if name in possible]


def _replaced(befores: Sequence[Observation], images: Sequence[Image], status: int) -> set[str]:
    """Which tables a run has replaced; of several the one that shows it, or else all."""
    everything = {before.table for before in befores}
    if len(befores) == 1 and status == 0:
        return everything
    shown = {image.name for image in images if _shows(image)}
    if shown or status != 0:
        return shown
    for before in befores:
        if limited(before):  # a flow that is counted already, as in a table that was not replaced, cannot be once more
            with TableHandle(before.table, before.family) as handle, contextlib.suppress(ConflictError):
                handle.commit()
    return everything


def _shows(image: Image) -> bool:
    """Whether a table has other rules than it had, or a counter of its rules went back."""
    with TableHandle(image.name, image.family) as handle:
        if not handle.opened_as(image):
            return True
        now = handle.image().counters()
    return any(new.packets < old.packets for new, old in zip(now, image.counters(), strict=True))


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
