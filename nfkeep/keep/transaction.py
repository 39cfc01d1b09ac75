"""Changes to one legacy table as one atomic replace, with the state of its rules kept."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Literal

from nfkeep.errors import ConflictError, InvalidRuleError, NfkeepError, StateLossError
from nfkeep.keep.change import apply, observe_others, observe_table
from nfkeep.keep.observe import Observation, observe
from nfkeep.keep.plan import make_plan
from nfkeep.keep.report import Report
from nfkeep.model import Family, Rule
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import TableHandle, check_name
from nfkeep.xtables.text import parse

if TYPE_CHECKING:
    from types import TracebackType

_LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1


class Transaction:
    """Changes to one table, made when the block is left; see `transaction`.

    Every method checks what it is given at once and raises InvalidRuleError in iptables' words, with nothing changed
    by that call. Positions count from 1. A rule is a `Rule` or its text.
    """

    def __init__(
        self,
        table: str = "filter",
        family: Family = Family.IPV4,
        *,
        on_loss: Literal["report", "refuse"] = "report",
        hold: bool = True,
        lock_timeout: float | None = 60.0,
    ) -> None:
        check_name(table)
        if on_loss not in ("report", "refuse"):
            raise NfkeepError(f'on_loss is "report" or "refuse", not {on_loss!r}')
        self.table = table
        self.family = family
        self.on_loss = on_loss
        self.hold = hold
        self._report: Report | None = None
        self._lock = XtablesLock(lock_timeout)
        self._handle: TableHandle | None = None
        self._before: Observation | None = None
        self._changed = False

    @property
    def report(self) -> Report:
        """What became of each state; there once the block was left without an exception."""
        if self._report is None:
            raise NfkeepError("the transaction is not committed, so there is no report")
        return self._report

    def append(self, chain: str, rule: Rule | str) -> None:
        """Add a rule at the end of a chain."""
        self._open.append(chain, self._rule(rule))
        self._changed = True

    def insert(self, chain: str, rule: Rule | str, position: int = 1) -> None:
        """Add a rule so that it becomes number `position` of a chain."""
        self._open.insert(chain, self._rule(rule), position)
        self._changed = True

    def delete(self, chain: str, rule: Rule | str | None = None, *, position: int | None = None) -> None:
        """Take out the first rule equal to `rule`, or rule number `position`."""
        if (rule is None) == (position is None):
            raise InvalidRuleError("delete wants either a rule or a position")
        if rule is not None:
            self._open.delete(chain, self._rule(rule))
        elif position is not None:
            self._open.delete_at(chain, position)
        self._changed = True

    def replace(self, chain: str, position: int, rule: Rule | str) -> None:
        """Put a rule in the place of number `position`."""
        self._open.replace(chain, position, self._rule(rule))
        self._changed = True

    def flush(self, chain: str | None = None) -> None:
        """Take out all rules of a chain, or of all chains."""
        for each in self._open.chains() if chain is None else [chain]:
            self._open.flush(each)
        self._changed = True

    def new_chain(self, chain: str) -> None:
        """Add an empty user chain."""
        _check_chain_name(chain)
        self._open.create_chain(chain)
        self._changed = True

    def delete_chain(self, chain: str) -> None:
        """Take out a user chain, which must be empty and not jumped to."""
        self._open.delete_chain(chain)
        self._changed = True

    def rename_chain(self, chain: str, name: str) -> None:
        """Give a user chain another name; jumps to it follow."""
        _check_chain_name(name)
        self._open.rename_chain(chain, name)
        self._changed = True

    def set_policy(self, chain: str, policy: str) -> None:
        """Set the policy of a base chain: ACCEPT or DROP."""
        self._open.set_policy(chain, policy)
        self._changed = True

    def zero_counters(self, chain: str | None = None) -> None:
        """Set the counters of a chain and its rules, or of all chains, to zero."""
        for each in self._open.chains() if chain is None else [chain]:
            self._open.zero(each)
        self._changed = True

    def __enter__(self) -> Transaction:
        if self._handle is not None or self._report is not None:
            raise NfkeepError("a transaction is for one use")
        self._lock.acquire()
        try:
            self._handle = TableHandle(self.table, self.family)
            self._before = observe(self._handle)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._report = self._commit()
        finally:
            self._discard()

    def _commit(self) -> Report:
        handle, before = self._open, self._before
        assert before is not None
        if not self._changed:
            return Report()
        after = observe(handle)
        others = observe_others(self.family, self.table) if any(before.stateful()) else ()
        plan = make_plan(before, after, others, hold=self.hold)
        if self.on_loss == "refuse" and (lost := Report(plan.outcomes).lost):
            raise StateLossError(lost)

        def replace() -> tuple[Observation, bool]:
            if not handle.unchanged_in_kernel():
                raise ConflictError(self.table)
            handle.commit()
            # What counts is what the kernel has now, should somebody without the lock have followed at once.
            return (observe_table(self.family, self.table) if any(after.stateful()) else after), True

        refuse = self.on_loss == "refuse"
        return apply(before, replace, others, plan.holds, keep_holds=self.hold, refuse=refuse)

    @property
    def _open(self) -> TableHandle:
        if self._handle is None:
            raise NfkeepError("the transaction is not open; use it as `with nfkeep.transaction(…) as tx:`")
        return self._handle

    def _rule(self, rule: Rule | str) -> Rule:
        return parse(rule, self.family) if isinstance(rule, str) else rule

    def _discard(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        self._lock.release()


def transaction(
    table: str = "filter",
    family: Family = Family.IPV4,
    *,
    on_loss: Literal["report", "refuse"] = "report",
    hold: bool = True,
    lock_timeout: float | None = 60.0,
) -> Transaction:
    """Change a legacy table: `with nfkeep.transaction("filter", Family.IPV4) as tx: tx.append("INPUT", "…")`.

    Holds the xtables lock from here to the end of the block and makes one atomic replace there; leaving the block by
    an exception changes nothing. Counts of connlimit are put back, lists of recent and hashlimit survive or (`hold`)
    are kept alive after their last rule went; `tx.report` says what became of each state. With `on_loss="refuse"` a
    change known to lose state raises StateLossError before anything is changed.

    Raises LockTimeoutError after `lock_timeout` seconds (None: waits), ConflictError if a program that ignores the
    lock changed the table meanwhile, CommitError if the kernel refuses (`applied` says whether the rules are live),
    PermissionDeniedError, UnsupportedError.
    """
    return Transaction(table, family, on_loss=on_loss, hold=hold, lock_timeout=lock_timeout)


def _check_chain_name(name: str) -> None:
    """What iptables refuses in a chain's name (assert_valid_chain_name() in iptables/xshared.c), and control bytes."""
    printable = not any(c in string.whitespace or ord(c) < 32 or ord(c) == 127 for c in name)
    if not name or name[0] in "-!" or not printable:
        raise InvalidRuleError(f"invalid chain name {name!r}: it is empty, begins with - or !, or holds white space")
    if len(name.encode(errors="surrogateescape")) > _LONGEST_CHAIN_NAME:
        raise InvalidRuleError(f"chain name {name!r} is too long: at most {_LONGEST_CHAIN_NAME} bytes")
    if name in ("ACCEPT", "DROP", "QUEUE", "RETURN"):
        raise InvalidRuleError(f"chain name {name!r} may clash with the verdict of that name")
