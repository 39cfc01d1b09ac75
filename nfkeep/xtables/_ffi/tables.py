"""Tables: opened, changed in memory, written, put back."""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, Any

from nfkeep.errors import (
    CommitError,
    ConflictError,
    InvalidRuleError,
    NfkeepError,
    PermissionDeniedError,
    UnsupportedError,
)
from nfkeep.model import Counters, Family, Rule
from nfkeep.xtables._ffi import words
from nfkeep.xtables._ffi.door import ffi, lib, text
from nfkeep.xtables._ffi.rules import format_table, require_target
from nfkeep.xtables.entry import decode, not_a_rule
from nfkeep.xtables.image import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.xtables._ffi.beginning import Surroundings

_LARGEST = 1 << 16
"""Bytes of an entry at most: its next_offset has 16 bits."""


def read_image(name: str, family: Family) -> Image:
    """A table's bytes as they are now. Errors as those of `TableHandle`."""
    with TableHandle(name, family) as handle:
        return handle.image()


class TableHandle:
    """One open table: a copy in memory, changed in place, written back by `commit`.

    Positions count from 1. Bad chains, positions and rules raise InvalidRuleError, in the words of iptables.
    """

    __slots__ = ("_committed", "_table", "family", "kept_state", "name")

    kept_state: bool
    """After `begin`: whether a rule kept state when the table was read."""

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family = family
        self._committed = False
        self._table = lib.nfk_table_open(family.value, name.encode())
        if not self._table:
            raise _open_error(name, family, ffi.errno)

    @classmethod
    def begin(cls, name: str, family: Family, around: Surroundings) -> TableHandle | None:
        """The table, and the xtables lock with it until `finish` or `close`, both in one call.

        None, with nothing held, if somebody has the lock, there is a run directory, or the table cannot be read.
        """
        begun = lib.nfk_change_begin(family._value_, name.encode(), around.pointer)
        if not begun:
            return None
        handle = cls.__new__(cls)
        handle.name = name
        handle.family = family
        handle.kept_state = begun.keeps != 0
        handle._committed = False
        handle._table = begun.table
        return handle

    def finish(self, around: Surroundings) -> bool:
        """`commit` and `close` in one call, after `begin`; False, with nothing done, if it is not as simple as that.

        That is if a rule keeps state, or if the table was not read just now.
        """
        result = lib.nfk_change_end(self._table, around.pointer)
        if result == 0:
            self._table = ffi.NULL
        elif result != lib.NFK_STEP_BY_STEP:
            self._written(result)
        return bool(result == 0)

    def close(self) -> None:
        """Free the C memory; further use is an error. Idempotent."""
        table, self._table = self._table, ffi.NULL
        lib.nfk_table_close(table)

    def __enter__(self) -> TableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def image(self) -> Image:
        """The kernel's bytes of the moment of opening."""
        layout = ffi.new("struct nfk_layout *")
        lib.nfk_table_layout(self._table, layout)
        return self._image(layout)

    def planned(self) -> Image:
        """What `commit` would write now, counters at zero. Raises CommitError if it could not."""
        layout = ffi.new("struct nfk_layout *")
        error = lib.nfk_table_planned(self._table, layout)
        if error:
            why = os.strerror(error)
            raise CommitError(f"the new table {self.name} cannot be made: {why}", applied=False, errno=error)
        return self._image(layout)

    def load(self, image: Image) -> None:
        """Put earlier bytes in the place of everything; rules that are there now go on with their counters.

        A counter that is lower now than it was then gets what it lacks, as with `recount`.
        """
        layout, _entries = _layout(image)
        error = lib.nfk_table_load(self._table, layout)
        if error:
            raise InvalidRuleError(f"these bytes are no {self.family} table {self.name}: {os.strerror(error)}")

    def opened_as(self, image: Image) -> bool:
        """Whether the table was, but for counters, these bytes when it was opened."""
        layout, _entries = _layout(image)
        same = lib.nfk_table_is(self._table, layout)
        if same < 0:
            raise MemoryError
        return bool(same)

    def recount(self, before: Image) -> int:
        """Give rules that are there still, and whose counters are lower than before, what these lack, in the kernel.

        All they had counted, if they have begun anew, as after a replace by a program that does not carry counters
        over; or what an earlier save that was restored lacks. How many rules; raises ConflictError if the table has
        other rules by now, CommitError.
        """
        layout, _entries = _layout(before)
        rules = lib.nfk_table_recount(self._table, layout)
        if rules in (-errno.EINVAL, -errno.EAGAIN):
            raise ConflictError(self.name)
        if rules < 0:
            raise CommitError(f"counting in table {self.name}: {os.strerror(-rules)}", applied=True, errno=-rules)
        return int(rules)

    def chains(self) -> list[str]:
        """Names of all chains, base chains first, in table order."""
        names: list[str] = []
        while (name := lib.nfk_chain_name(self._table, len(names))) != ffi.NULL:
            names.append(text(name))
        return names

    def has_chain(self, chain: str) -> bool:
        """Whether the chain exists."""
        return bool(lib.nfk_chain_exists(self._table, os.fsencode(chain)))

    def policy(self, chain: str) -> tuple[str, Counters] | None:
        """Policy and counters of a base chain; None for a user chain."""
        packets, octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        policy = lib.nfk_chain_policy(self._table, os.fsencode(chain), packets, octets)
        return None if policy == ffi.NULL else (text(policy), Counters(packets[0], octets[0]))

    def rules(self, chain: str) -> Iterator[Rule]:
        """The chain's rules in order."""
        name, size, index = os.fsencode(chain), ffi.new("size_t *"), 0
        packets, octets, room = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.new("char[]", _LARGEST)
        while (rule := lib.nfk_rule_at(self._table, name, index, size)) != ffi.NULL:
            lib.nfk_rule_copy(self._table, rule, room, packets, octets)
            yield Rule(self.family, ffi.buffer(room, size[0])[:], Counters(packets[0], octets[0]))
            index += 1

    def save(self) -> str:
        """The table as `iptables-save -c` prints it, without remarks. Raises InvalidRuleError for what is no rule."""
        return format_table(self._table)

    def has(self, names: tuple[str, ...]) -> bool:
        """Whether any rule carries a match or a target of one of `names`."""
        named, count, _ = _words(names)
        return bool(lib.nfk_table_has(self._table, named, count))

    def scan(self, names: tuple[str, ...], *, jumps: bool = True) -> list[tuple[int, int, Rule]]:
        """Rules that carry an extension of one of `names` or, with `jumps`, go to a user chain.

        As (index of the chain in `chains()`, position from 1, rule).
        """
        named, count, _ = _words(names)
        hits, found = ffi.new("struct nfk_hit **"), ffi.new("size_t *")
        if lib.nfk_table_scan(self._table, named, count, jumps, hits, found):
            raise MemoryError
        try:
            return [
                (hit.chain, hit.position, self._rule(hit.rule, hit.size))
                for hit in (hits[0][i] for i in range(found[0]))
            ]
        finally:
            lib.nfk_hits_free(hits[0])

    def append(self, chain: str, rule: Rule) -> None:
        """Add a rule at the end."""
        self._insert(chain, rule, -1)

    def insert(self, chain: str, rule: Rule, position: int) -> None:
        """Add a rule so that it becomes number `position`."""
        self._insert(chain, rule, _index(position))

    def replace(self, chain: str, position: int, rule: Rule) -> None:
        """Put a rule in the place of number `position`."""
        if rule.family is not self.family:
            raise self._other_family(rule)
        name, entry, counted = os.fsencode(chain), rule.entry, rule.counters
        error = lib.nfk_rule_replace(
            self._table, name, _index(position), entry, len(entry), counted.packets, counted.bytes
        )
        if error:
            raise self._refused(error, "replace", chain, rule)

    def rewrite(self, chain: str, position: int, rule: Rule) -> None:
        """Give rule number `position` other bytes; its counters go on."""
        if rule.family is not self.family:
            raise self._other_family(rule)
        error = lib.nfk_rule_rewrite(self._table, os.fsencode(chain), _index(position), rule.entry, len(rule.entry))
        if error:
            raise self._refused(error, "replace", chain, rule)

    def delete(self, chain: str, rule: Rule) -> None:
        """Take out the first rule equal to `rule`."""
        if rule.family is not self.family:
            raise self._other_family(rule)
        name, error = os.fsencode(chain), ffi.new("int *")
        index = lib.nfk_rule_find(self._table, name, rule.entry, len(rule.entry), error)
        if index < 0:
            raise self._refused(error[0], "delete", chain, rule)
        lib.nfk_rule_delete_at(self._table, name, index)

    def delete_at(self, chain: str, position: int) -> None:
        """Take out rule number `position`."""
        self._check(lib.nfk_rule_delete_at(self._table, self._name(chain), _index(position)), "delete at")

    def flush(self, chain: str) -> None:
        """Take out all rules of a chain."""
        self._check(lib.nfk_chain_flush(self._table, self._name(chain)))

    def zero(self, chain: str) -> None:
        """Set the counters of a chain and its rules to zero."""
        self._check(lib.nfk_chain_zero(self._table, self._name(chain)))

    def create_chain(self, chain: str) -> None:
        """Add an empty user chain."""
        self._check(lib.nfk_chain_create(self._table, os.fsencode(chain)), "create chain")

    def delete_chain(self, chain: str) -> None:
        """Take out an empty, unreferenced user chain."""
        error = lib.nfk_chain_delete(self._table, self._name(chain))
        if error:
            raise InvalidRuleError(f"{words.WORDS.get(('delete chain', error), words.UNNAMED)}: {chain}")

    def rename_chain(self, chain: str, name: str) -> None:
        """Rename a user chain; jumps follow it."""
        self._check(lib.nfk_chain_rename(self._table, self._name(chain), os.fsencode(name)), "create chain")

    def set_policy(self, chain: str, policy: str) -> None:
        """Set a base chain's policy, ACCEPT or DROP."""
        self._check(lib.nfk_chain_set_policy(self._table, os.fsencode(chain), os.fsencode(policy)), "policy")

    def unchanged_in_kernel(self) -> bool:
        """Whether the kernel's table is, but for counters, still the one that was opened."""
        same = lib.nfk_table_unchanged(self._table)
        if same < 0:
            raise _open_error(self.name, self.family, -same)
        return bool(same)

    def commit(self) -> None:
        """Write the table: one replace, then the counters. Once only.

        Raises ConflictError if the kernel saw another writer, CommitError(applied=…) otherwise.
        """
        if self._committed:
            raise NfkeepError(f"the table {self.name} was written already; open it again for another change")
        self._written(lib.nfk_table_commit(self._table))

    def _written(self, result: int) -> None:
        self._committed = result <= 0
        if result == 0:
            return
        error = abs(result)
        why = words.COMMIT_WORDS.get(error, os.strerror(error))
        if error == errno.EPERM:
            raise PermissionDeniedError(f"writing table {self.name}")
        if self._committed:
            raise CommitError(
                f"the new rules of table {self.name} are live, but their counters could not be put back: {why}",
                applied=True,
                errno=error,
            )
        if error == errno.EAGAIN:
            raise ConflictError(self.name)
        raise CommitError(f"the kernel refused the new table {self.name}: {why}", applied=False, errno=error)

    def revert(self) -> None:
        """After `commit`: the table as it was when opened, counters going on. Raises CommitError."""
        error = lib.nfk_table_revert(self._table)
        if error:
            raise CommitError(
                f"the earlier rules of table {self.name} could not be put back: {os.strerror(error)}",
                applied=True,
                errno=error,
            )

    def replaced(self, chain: str, position: int) -> Counters | None:
        """After `commit`: what the rule that goes on in this place had counted by then; None if it is new."""
        packets, octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        if not lib.nfk_rule_replaced(self._table, os.fsencode(chain), _index(position), packets, octets):
            return None
        return Counters(packets[0], octets[0])

    def count(self, packets: Sequence[int], octets: Sequence[int]) -> None:
        """Add, modulo 2**64, to the counters of all entries in the kernel. Raises ConflictError, CommitError."""
        error = lib.nfk_table_count(
            self._table, ffi.new("uint64_t[]", packets), ffi.new("uint64_t[]", octets), len(packets)
        )
        if error in (errno.EINVAL, errno.EAGAIN):
            raise ConflictError(self.name)
        if error:
            raise CommitError(f"counting in table {self.name}: {os.strerror(error)}", applied=True, errno=error)

    def _image(self, layout: Any) -> Image:
        entries = bytes(ffi.buffer(layout.entries, layout.size))
        hooks, underflows = tuple(layout.hook_entry), tuple(layout.underflow)
        return Image(self.name, self.family, entries, layout.number, layout.valid_hooks, hooks, underflows)

    def _rule(self, rule: Any, size: int) -> Rule:
        into = ffi.new("char[]", size)
        packets, octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.nfk_rule_copy(self._table, rule, into, packets, octets)
        return Rule(self.family, bytes(ffi.buffer(into, size)), Counters(packets[0], octets[0]))

    def _insert(self, chain: str, rule: Rule, index: int) -> None:
        if rule.family is not self.family:
            raise self._other_family(rule)
        entry, counted, name = rule.entry, rule.counters, chain.encode("utf-8", "surrogateescape")
        error = lib.nfk_rule_insert(self._table, name, index, entry, len(entry), counted.packets, counted.bytes)
        if error:
            raise self._refused(error, "insert", chain, rule)

    def _other_family(self, rule: Rule) -> InvalidRuleError:
        return InvalidRuleError(f"an {rule.family} rule cannot go into an {self.family} table", str(rule))

    def _name(self, chain: str) -> bytes:
        name = os.fsencode(chain)
        if not lib.nfk_chain_exists(self._table, name):
            raise InvalidRuleError(f"table {self.name} has no chain {chain!r}")
        return name

    def _check(self, error: int, doing: str = "") -> None:
        if error:
            raise InvalidRuleError(words.WORDS.get((doing, error), words.UNNAMED))

    def _refused(self, error: int, doing: str, chain: str, rule: Rule) -> InvalidRuleError:
        if error == errno.EBADMSG:
            return not_a_rule(rule.entry)
        if not self.has_chain(chain):
            return InvalidRuleError(f"table {self.name} has no chain {chain!r}", f"-A {chain} {rule}")
        jump = decode(rule).jump
        if error == errno.ENOENT and jump is not None and not self.has_chain(jump):
            require_target(jump, self.family)
        return InvalidRuleError(words.WORDS.get((doing, error), words.UNNAMED), str(rule))


def _layout(image: Image) -> tuple[Any, Any]:
    """An image as C takes it, and what keeps its bytes alive."""
    entries = ffi.from_buffer("unsigned char[]", image.entries)
    layout = ffi.new("struct nfk_layout *")
    layout.entries, layout.size, layout.number = entries, len(image.entries), image.number
    layout.valid_hooks = image.valid_hooks
    layout.hook_entry, layout.underflow = image.hook_entries, image.underflows
    return layout, entries


@functools.cache
def _words(names: tuple[str, ...]) -> tuple[Any, int, list[Any]]:
    """Names as C takes them, how many, and what keeps them alive."""
    chars = [ffi.new("char[]", name.encode()) for name in names]
    return ffi.new("char *[]", chars), len(chars), chars


def _index(position: int) -> int:
    if position < 1:
        raise InvalidRuleError(f"positions count from 1, not {position}")
    return position - 1


def _open_error(name: str, family: Family, error: int) -> Exception:
    if error in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(f"reading the {family} table {name}")
    if error in (errno.ENOENT, errno.EINVAL):
        return InvalidRuleError(f"there is no {family} table {name!r}")
    if error in (errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return UnsupportedError(f"this kernel has no legacy {family} tables", feature="ip_tables")
    if error == errno.EBADMSG:
        return UnsupportedError(f"the {family} table {name} is not cut into chains as iptables does it", feature=name)
    return UnsupportedError(f"reading the {family} table {name}: {os.strerror(error)}", feature=name)
