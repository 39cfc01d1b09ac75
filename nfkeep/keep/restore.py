"""Between a replace and the moment when all counts are back: hold off new connections, have the old ones counted again.

The only module that acts on conntrack and the gate; what to do comes from the plan, what came of it goes to the report.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from nfkeep.conntrack import Conntrack, Flows, Injector, Primed, prime
from nfkeep.conntrack.identity import new_nonces
from nfkeep.conntrack.select import Selector
from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.keep.guard import RESETS, SHUT, arrived, guard_ruleset
from nfkeep.keep.passage import Passage
from nfkeep.keep.plan import ON_THE_WAY, Limit, Plan
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.keep.selftest import Counting, probe_counting
from nfkeep.model import Family, Hook
from nfkeep.nft.chains import filtering_chains
from nfkeep.nft.lasting import TABLE
from nfkeep.nft.owned_table import OwnedTable
from nfkeep.nft.ruleset import TimedSet
from nfkeep.xtables import connlimit
from nfkeep.xtables.tables import TableKind

if TYPE_CHECKING:
    from nfkeep.keep.passage import TakenOff

#: The gate opens by itself after this long, should this process be stopped and never go on.
OPEN_AGAIN_SECONDS = 30

_SETTLE_SECONDS = 0.05
_CHEAP_LOOK = 1 << 16  # buckets of the connection tracking table: the kernel walks them in 2 ms
_BUCKETS_AN_ENTRY = 30  # in the time that it takes to tell of one entry


class Restoration:
    """One table's counts across one replace: `shut`, then the caller replaces, then `count_again`, then `open`.

    A context manager that opens the gate whatever happens. Not to be used by two threads.
    """

    def __init__(self, family: Family, kind: TableKind) -> None:
        self.family = family
        self.kind = kind
        self.gate_seconds = 0.0
        self.nonces: Mapping[Hook, int] = {Hook(hook): nonce for hook, nonce in new_nonces(kind.hooks).items()}
        self._guard: OwnedTable | None = None
        self._shut_at = 0.0
        self._conntrack = Conntrack()
        self._injector = Injector()

    def shut(self, selectors: tuple[Selector, ...], beside: Iterable[Restoration] = ()) -> None:
        """Hold off the packets that would open a flow of `selectors`; ours are dropped behind the table from now on.

        Those of the restorations `beside` are let through, on their way to other tables that change as well.
        Raises UnsupportedError where counts cannot be put back: nothing was done then.
        """
        guard, sets = self._stand_guard(selectors, beside)
        self._shut_at = time.monotonic()
        for each in sets:
            guard.fill_set(each)

    def rehearse(self, selectors: tuple[Selector, ...]) -> None:
        """Do the same but for holding anything off: what the first one of a process, or of a boot, is slow with.

        That is the self-test and the modules of the kernel. Raises UnsupportedError as `shut` does.
        """
        self._stand_guard(selectors, ())

    def _stand_guard(
        self, selectors: tuple[Selector, ...], beside: Iterable[Restoration]
    ) -> tuple[OwnedTable, tuple[TimedSet, ...]]:
        """Make the table of the guard, with the gate open; the table, and the sets that shut it."""
        if probe_counting(self.family) is Counting.NEITHER:
            raise UnsupportedError("no way to have live flows counted again works on this kernel", feature="connlimit")
        self._prepare(selectors)
        hooks = dict.fromkeys(self.kind.hooks, self.kind.priority)
        passing = [nonce for other in beside if other is not self for nonce in other.nonces.values()]
        ruleset = guard_ruleset(
            self.family, selectors, hooks, self.nonces, open_again_seconds=OPEN_AGAIN_SECONDS, passing=passing
        )
        # The chains first, while the sets that they ask are empty: to make them takes the kernel some milliseconds.
        self._guard = OwnedTable(attrs.evolve(ruleset, sets=tuple(TimedSet(each.name) for each in ruleset.sets)))
        return self._guard, ruleset.sets

    def _prepare(self, selectors: tuple[Selector, ...]) -> None:
        """Make the devices, and load the modules, that will be needed, while the gate is still open."""
        try:
            entries, buckets = map(_number_of, ("nf_conntrack_count", "nf_conntrack_buckets"))
        except OSError:
            return  # a container that does not show it; then they are made when they are needed
        if entries * _BUCKETS_AN_ENTRY + buckets > _CHEAP_LOOK:
            return  # a look at all of them costs more than the milliseconds that it saves
        with self._conntrack.select(self.family, selectors) as flows:
            self._injector.prepare(flows.interfaces)

    def count_again(self, plan: Plan, taken_off: TakenOff | None = None) -> list[Outcome]:
        """Have the live flows of the plan's limits counted; what came of each limit.

        `taken_off` is told what the opening packets had raised the counters of each table by.
        """
        if not plan.limits:
            return []
        assert self._guard is not None, "shut() comes first"
        selectors = tuple(selector for each in plan.limits for selector in each.selectors)
        recreate = plan.needs_new or probe_counting(self.family) is Counting.RECREATE
        try:
            with (
                self._conntrack.select(self.family, selectors) as flows,
                contextlib.closing(Passage(self.family, self.kind.name)) as passage,
            ):
                left_out = passage.leave_out(flows, is_new=recreate)

                def done() -> None:
                    passage.look()
                    self.open_gate()

                primed = prime(
                    self._conntrack, flows, self._injector,
                    recreate=recreate, nonces=self.nonces, settle=_Settle(self._guard),
                    resets=self._guard.question(RESETS), done=done,
                )  # fmt: skip
                counters = self._guard.counters()
                missing = sum(primed.packets.values()) - sum(counters[arrived(hook)] for hook in self.nonces)
                counters_off = passage.take_off(flows, all_arrived=not missing)
                off = passage.off
        except (NfkeepError, OSError) as error:
            if taken_off is not None:
                taken_off(self.family, None)
            reason = f"the rules are live, but counting the flows again failed: {error}"
            return [Outcome(connlimit.NAME, each.where, Fidelity.LOST, reason) for each in plan.limits]
        if taken_off is not None:
            taken_off(self.family, off)
        limits = _outcomes(plan.limits, flows, primed, missing, left_out)
        return [*limits, *counters_off, *self._other_tables(primed)]

    def _other_tables(self, primed: Primed) -> list[Outcome]:
        """Tables of nftables whose base chains the opening packets have passed; what they do there is not looked at.

        That of nfkeep's own ban lists is none of them: it keeps nothing of packets whose source it does not ban.
        """
        assert self._guard is not None
        guards = self._guard.name.rpartition("-")[0]  # those of other tables that change with this one as well
        hooks = [hook for hook, packets in primed.packets.items() if packets]
        families = ("inet", "ip6" if self.family is Family.IPV6 else "ip")
        passed: dict[tuple[str, str], list[str]] = {}
        for chain in filtering_chains(self._guard.dump):
            if (
                chain.rules
                and chain.family in families
                and not (chain.family == "inet" and (chain.table == TABLE or chain.table.rpartition("-")[0] == guards))
            ):
                for hook in hooks:
                    before = chain.hook != hook or chain.priority <= self.kind.priority + 1
                    if chain.hook in ON_THE_WAY[hook] and before:
                        passed.setdefault((chain.family, chain.table), []).append(chain.name)
                        break
        detail = "opening packets have passed its base chains {} and are in the state and the counters there"
        return [
            Outcome("nftables", f"table {family} {table}", Fidelity.APPROXIMATED, detail.format(", ".join(chains)))
            for (family, table), chains in passed.items()
        ]

    def open_gate(self) -> None:
        """Let new connections in. Idempotent."""
        if self._guard is not None and self._shut_at:
            self._guard.flush_set(SHUT)
            self.gate_seconds = time.monotonic() - self._shut_at
            self._shut_at = 0.0

    def close(self) -> None:
        """Open the gate if it is shut, and take everything down."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()
            if self._shut_at:
                self.gate_seconds = time.monotonic() - self._shut_at
                self._shut_at = 0.0
        # Taking devices down, and closing any nfnetlink socket behind a deletion in nftables, waits for RCU grace
        # periods (20-50 ms in all); nobody has to stand and watch.
        try:
            threading.Thread(target=self._close_means, name="nfkeep-close").start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._close_means()

    def _close_means(self) -> None:
        self._conntrack.close()
        self._injector.close()

    def __enter__(self) -> Restoration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _number_of(setting: str) -> int:
    with open(f"/proc/sys/net/netfilter/{setting}", encoding="ascii") as file:
        return int(file.read())


class _Settle:
    """Waits until packets on their way have reached the sink; gives up on those that rules have dropped before."""

    def __init__(self, guard: OwnedTable) -> None:
        self._guard = guard
        self._missing: dict[Hook, int] = {}

    def __call__(self, sent: Mapping[Hook, int]) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            counters = self._guard.counters()
            missing = {hook: count - counters[arrived(hook)] for hook, count in sent.items() if count}
            if all(count <= self._missing.get(hook, 0) for hook, count in missing.items()):
                return
            if time.monotonic() > deadline:
                self._missing = missing
                return
            os.sched_yield()  # the kernel tells nobody when a softirq is done


def _outcomes(
    limits: tuple[Limit, ...], flows: Flows, primed: Primed, missing: int, left_out: Mapping[str, int]
) -> list[Outcome]:
    passed_over = {**flows.skipped, **left_out}
    troubles = [f"{count} flows left out: {reason}" for reason, count in passed_over.items()]
    for number, count in primed.failed.items():
        troubles.append(f"{count} flows could not be made again: {os.strerror(number)}")
    if primed.unsent:
        troubles.append(f"{primed.unsent} flows whose packet could not be sent")
    if primed.uncertain:
        troubles.append(f"{primed.uncertain} flows so busy that they may not be counted")
    if missing > 0:
        troubles.append(f"{missing} opening packets were refused by other rules on their way")
    outcomes, at = [], 0
    for each in limits:
        counts = flows.counts[at : at + len(each.selectors)]
        at += len(each.selectors)
        found = max(0, (max(counts) if counts else 0) - sum(left_out.values()))
        detail = "; ".join([f"{found} live flows counted again", *troubles])
        fidelity = Fidelity.APPROXIMATED if troubles else Fidelity.RESTORED
        if left_out and not primed.primed:
            fidelity = Fidelity.LOST
        outcomes.append(Outcome(connlimit.NAME, each.where, fidelity, detail))
    return outcomes
