"""Changes to one legacy table, collected in memory and written later: what a transaction offers for each table."""

from __future__ import annotations

import string
import time
from typing import TYPE_CHECKING

from nfkeep.errors import ConflictError, InvalidRuleError, NfkeepError
from nfkeep.keep.observe import Observation, observe
from nfkeep.model import Family, Rule
from nfkeep.xtables.stateful import KEEPING
from nfkeep.xtables.tables import TableHandle, check_name, check_place
from nfkeep.xtables.text import parse

if TYPE_CHECKING:
    from nfkeep.xtables.tables import Surroundings

_MOMENT_SECONDS = 0.001
_LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1


class TableEdits:
    """One table of a transaction. Changes are for the inside of the transaction's block.

    Every method checks what it is given at once and raises InvalidRuleError in iptables' words, with nothing changed
    by that call. Positions count from 1. A rule is a `Rule` or its text.
    """

    changed = False
    _handle: TableHandle | None = None
    _before: Observation | None = None
    _read_seconds = _read_at = 0.0

    def __init__(self, table: str, family: Family) -> None:
        check_name(table)
        self.table = table
        self.family = family

    def append(self, chain: str, rule: Rule | str) -> None:
        """Add a rule at the end of a chain."""
        made = rule if isinstance(rule, Rule) else parse(rule, self.family)
        check_place(self.table, chain, made)
        self.handle.append(chain, made)
        self.changed = True

    def insert(self, chain: str, rule: Rule | str, position: int = 1) -> None:
        """Add a rule so that it becomes number `position` of a chain."""
        self.handle.insert(chain, self._placed(chain, rule), position)
        self.changed = True

    def delete(self, chain: str, rule: Rule | str | None = None, *, position: int | None = None) -> None:
        """Take out the first rule equal to `rule`, or rule number `position`."""
        if (rule is None) == (position is None):
            raise InvalidRuleError("delete wants either a rule or a position")
        if rule is not None:
            self._delete(chain, self._rule(rule))
        elif position is not None:
            self.handle.delete_at(chain, position)
        self.changed = True

    def replace(self, chain: str, position: int, rule: Rule | str) -> None:
        """Put a rule in the place of number `position`."""
        self.handle.replace(chain, position, self._placed(chain, rule))
        self.changed = True

    def flush(self, chain: str | None = None) -> None:
        """Take out all rules of a chain, or of all chains."""
        for each in self.handle.chains() if chain is None else [chain]:
            self.handle.flush(each)
        self.changed = True

    def new_chain(self, chain: str) -> None:
        """Add an empty user chain."""
        _check_chain_name(chain)
        self.handle.create_chain(chain)
        self.changed = True

    def delete_chain(self, chain: str) -> None:
        """Take out a user chain, which must be empty and not jumped to."""
        self.handle.delete_chain(chain)
        self.changed = True

    def rename_chain(self, chain: str, name: str) -> None:
        """Give a user chain another name; jumps to it follow."""
        _check_chain_name(name)
        self.handle.rename_chain(chain, name)
        self.changed = True

    def set_policy(self, chain: str, policy: str) -> None:
        """Set the policy of a base chain: ACCEPT or DROP."""
        self.handle.set_policy(chain, policy)
        self.changed = True

    def zero_counters(self, chain: str | None = None) -> None:
        """Set the counters of a chain and its rules to zero, or of all chains."""
        for each in self.handle.chains() if chain is None else [chain]:
            self.handle.zero(each)
        self.changed = True

    @property
    def handle(self) -> TableHandle:
        """The open table, for this package; raises NfkeepError outside the transaction's block."""
        if self._handle is None:
            raise NfkeepError("the transaction is not open; use it as `with nfkeep.transaction(…) as tx:`")
        return self._handle

    @property
    def before(self) -> Observation | None:
        """The table as it was when read; None if nothing in it keeps state."""
        return self._before

    def read(self) -> None:
        """Read the table; the caller has the lock."""
        started = time.monotonic()
        self._handle = handle = TableHandle(self.table, self.family)
        self._read_at = time.monotonic()
        self._read_seconds = self._read_at - started
        if handle.has(KEEPING):
            self._before = observe(handle)

    def begin(self, around: Surroundings) -> bool:
        """Take the lock and read the table at once, if that is all there is to it; False with nothing done if not."""
        self._handle = handle = TableHandle.begin(self.table, self.family, around)
        if handle is None:
            return False
        if handle.kept_state:
            try:
                self._before = observe(handle)
            except BaseException:
                self.close()
                raise
        return True

    def finish(self, around: Surroundings) -> bool:
        """After `begin`: write the table and give the lock back at once, or say False with nothing done.

        That is if the table keeps state, or was not read just now. Raises as `write` does.
        """
        handle = self._handle
        if not self.changed or self._before is not None or handle is None or not handle.finish(around):
            return False
        self._handle = None
        return True

    def observe_after(self) -> Observation | None:
        """The table as it is to be; None if nothing in it keeps state, before or after."""
        return observe(self.handle) if self.keeps_state else None

    @property
    def keeps_state(self) -> bool:
        """Whether anything in the table keeps state, before or after."""
        return self._before is not None or self.handle.has(KEEPING)

    def write(self) -> None:
        """Write the table. Raises ConflictError if another program has changed it meanwhile, CommitError.

        The kernel itself refuses if it has another number of rules by now. That the others are the same is looked at
        if the block took longer than a reading: else looking again would hardly narrow the gap in which a writer that
        ignores the lock can come, and it is what a change of a large table mostly costs.
        """
        took_long = time.monotonic() - self._read_at > max(self._read_seconds, _MOMENT_SECONDS)
        if took_long and not self.handle.unchanged_in_kernel():
            raise ConflictError(self.table)
        self.handle.commit()

    def close(self) -> None:
        """Forget the changes that are not written. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _placed(self, chain: str, rule: Rule | str) -> Rule:
        made = self._rule(rule)
        check_place(self.table, chain, made)
        return made

    def _delete(self, chain: str, rule: Rule) -> None:
        try:
            self.handle.delete(chain, rule)
        except InvalidRuleError:  # not these bytes: perhaps others that do the same
            found = (n for n, each in enumerate(self.handle.rules(chain), 1) if each == rule)
            if (position := next(found, None)) is None:
                raise
            self.handle.delete_at(chain, position)

    def _rule(self, rule: Rule | str) -> Rule:
        return parse(rule, self.family) if isinstance(rule, str) else rule


def _check_chain_name(name: str) -> None:
    """What iptables refuses in a chain's name (assert_valid_chain_name() in iptables/xshared.c), and control bytes."""
    printable = not any(c in string.whitespace or ord(c) < 32 or ord(c) == 127 for c in name)
    if not name or name[0] in "-!" or not printable:
        raise InvalidRuleError(f"invalid chain name {name!r}: it is empty, begins with - or !, or holds white space")
    if len(name.encode(errors="surrogateescape")) > _LONGEST_CHAIN_NAME:
        raise InvalidRuleError(f"chain name {name!r} is too long: at most {_LONGEST_CHAIN_NAME} bytes")
    if name in ("ACCEPT", "DROP", "QUEUE", "RETURN"):
        raise InvalidRuleError(f"chain name {name!r} may clash with the verdict of that name")
