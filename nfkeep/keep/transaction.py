"""Transactions over legacy tables: one table as one atomic replace, or several as all or none, with the state kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep import rundir
from nfkeep.keep.commit import ALONE, NOTHING, commit
from nfkeep.keep.editing import TableEdits
from nfkeep.keep.recovery import recover_locked
from nfkeep.keep.report import Recovered, Report
from nfkeep.model import Family
from nfkeep.xtables import lock
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.stateful import KEEPING
from nfkeep.xtables.tables import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

OnLoss = Literal["report", "refuse"]

_AROUND = Surroundings(lock=(lock.VARIABLE, lock.DEFAULT_PATH), run=(rundir.VARIABLE, rundir.DEFAULT), keeping=KEEPING)


class _Block:
    """What all transactions have in common: the lock, one use, and the report in the end."""

    along = ALONE
    """What is to be changed together with the tables; for the inside of the block."""

    _report: Report | None = None
    _recovered: tuple[Recovered, ...] = ()
    _used = False
    _lock: XtablesLock | None = None

    def __init__(self, on_loss: OnLoss, hold: bool, lock_timeout: float | None) -> None:
        if on_loss not in ("report", "refuse"):
            raise NfkeepError(f'on_loss is "report" or "refuse", not {on_loss!r}')
        self.on_loss = on_loss
        self.hold = hold
        self._lock_timeout = lock_timeout

    @property
    def _tables(self) -> Sequence[TableEdits]:
        raise NotImplementedError

    @property
    def report(self) -> Report:
        """What became of each state; there once the block was left without an exception."""
        if self._report is None:
            raise NfkeepError("the transaction is not committed, so there is no report")
        return self._report

    def __enter__(self) -> Self:
        if self._used:
            raise NfkeepError("a transaction is for one use")
        self._used = True
        self._lock = XtablesLock(self._lock_timeout)
        self._lock.acquire()
        try:
            self._recovered = recover_locked()
            for each in self._tables:
                each.read()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                report = commit(self._tables, hold=self.hold, refuse=self.on_loss == "refuse", along=self.along)
                self._report = attrs.evolve(report, recovered=self._recovered)
        finally:
            self._discard()

    def _discard(self) -> None:
        for each in self._tables:
            each.close()
        if self._lock is not None:
            self._lock.release()


class Transaction(TableEdits, _Block):
    """Changes to one table, made when the block is left; see `transaction`."""

    def __init__(
        self,
        table: str = "filter",
        family: Family = Family.IPV4,
        on_loss: OnLoss = "report",
        hold: bool = True,
        lock_timeout: float | None = 60.0,
    ) -> None:
        TableEdits.__init__(self, table, family)
        _Block.__init__(self, on_loss, hold, lock_timeout)

    @property
    def _tables(self) -> Sequence[TableEdits]:
        return (self,)

    def __enter__(self) -> Self:
        # Step by step where something is out of the ordinary: what is common should cost little more than in C.
        if self._used or not self.begin(_AROUND):
            return super().__enter__()
        self._used = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.along is ALONE and self.finish(_AROUND):
                self._report = NOTHING
                return
        except BaseException:
            self._discard()
            raise
        super().__exit__(kind, error, trace)


class Transactions(_Block):
    """Changes to several tables, made together when the block is left; see `transactions`.

    `each = transactions[table, family]` has the methods of a transaction.
    """

    def __init__(
        self,
        tables: Sequence[tuple[str, Family]],
        *,
        on_loss: OnLoss = "report",
        hold: bool = True,
        lock_timeout: float | None = 60.0,
    ) -> None:
        self._by_name = {(table, family): TableEdits(table, family) for table, family in tables}
        super().__init__(on_loss, hold, lock_timeout)

    @property
    def _tables(self) -> Sequence[TableEdits]:
        return tuple(self._by_name.values())

    def __getitem__(self, name: tuple[str, Family]) -> TableEdits:
        try:
            return self._by_name[name]
        except KeyError:
            raise NfkeepError(f"{name!r} is none of this transaction's tables: {', '.join(map(str, self))}") from None

    def __iter__(self) -> Iterator[tuple[str, Family]]:
        return iter(self._by_name)


def transaction(
    table: str = "filter",
    family: Family = Family.IPV4,
    *,
    on_loss: OnLoss = "report",
    hold: bool = True,
    lock_timeout: float | None = 60.0,
) -> Transaction:
    """Change a legacy table: `with nfkeep.transaction("filter", Family.IPV4) as tx: tx.append("INPUT", "…")`.

    Holds the xtables lock from here to the end of the block and makes one atomic replace there; leaving the block by
    an exception changes nothing. Counts of connlimit are put back, what is left of a quota is written into the new
    rule, lists of recent and hashlimit survive or (`hold`) are kept alive after their last rule went; `tx.report` says
    what became of each state. With `on_loss="refuse"` a change known to lose state raises StateLossError before
    anything is changed.

    Raises LockTimeoutError after `lock_timeout` seconds (None: waits), ConflictError if a program that ignores the
    lock changed the table meanwhile, CommitError if the kernel refuses (`applied` says whether the rules are live),
    PermissionDeniedError, UnsupportedError.
    """
    return Transaction(table, family, on_loss, hold, lock_timeout)


def transactions(
    *tables: tuple[str, Family], on_loss: OnLoss = "report", hold: bool = True, lock_timeout: float | None = 60.0
) -> Transactions:
    """Change several legacy tables, of one family or both, as one.

    `with nfkeep.transactions(("filter", Family.IPV4), ("mangle", Family.IPV6)) as txs: txs["filter", Family.IPV4]…`
    The kernel replaces one table after the other; if it refuses one, those before it are put back as they were, their
    counters going on and their state kept, and CommitError(applied=False) is raised: all tables are changed, or none.
    Everything else is as with `transaction`; one report tells of all tables.
    """  # fmt: skip
    return Transactions(tables, on_loss=on_loss, hold=hold, lock_timeout=lock_timeout)
