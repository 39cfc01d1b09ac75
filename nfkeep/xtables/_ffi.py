"""The one door to libiptc and libxtables: every call into C of the legacy world is made here.

C memory has one owner, `TableHandle`; text calls are serialised, because libxtables and getopt keep global state.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from nfkeep.errors import CommitError, ConflictError, InvalidRuleError, PermissionDeniedError, UnsupportedError
from nfkeep.model import Counters, Family, Rule
from nfkeep.xtables._xtables import ffi as _ffi
from nfkeep.xtables._xtables import lib as _lib
from nfkeep.xtables.entry import decode
from nfkeep.xtables.image import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ffi: Any = _ffi
lib: Any = _lib

_text_lock = threading.Lock()


def parse_words(words: Sequence[str], family: Family) -> tuple[bytes, Counters]:
    """The entry (see csrc/xtables_world.h) and counters that the words of a rule stand for.

    Raises InvalidRuleError with the extension's own words.
    """
    arguments = [ffi.new("char[]", os.fsencode(word)) for word in ("nfkeep", *words)]
    argv = ffi.new("char *[]", [*arguments, ffi.NULL])
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        lib.nfk_rule_parse(family.value, len(arguments), argv, out)
        try:
            if out.failed:
                raise InvalidRuleError(_text(out.reason), " ".join(words))
            entry = bytearray(ffi.buffer(out.entry, out.entry_length))
        finally:
            lib.nfk_text_free(out)
    at = _COUNTERS_AT[family]
    counters = Counters(int.from_bytes(entry[at : at + 8], _NATIVE), int.from_bytes(entry[at + 8 : at + 16], _NATIVE))
    entry[at : at + 16] = bytes(16)
    return bytes(entry), counters


def format_entry(entry: bytes, family: Family) -> str:
    """What iptables-save prints for an entry, from the first option on. Raises InvalidRuleError for other bytes."""
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        lib.nfk_rule_format(family.value, ffi.from_buffer(entry), len(entry), out)
        try:
            if out.failed:
                raise InvalidRuleError(_text(out.reason))
            return os.fsdecode(bytes(ffi.buffer(out.text, out.text_length))).strip()
        finally:
            lib.nfk_text_free(out)


def require_target(name: str, family: Family) -> None:
    """Raise InvalidRuleError, in libxtables' words, unless `name` is an extension that can be a target."""
    out = ffi.new("struct nfk_text *")
    with _text_lock:
        lib.nfk_target_known(family.value, os.fsencode(name), out)
    if out.failed:
        raise InvalidRuleError(_text(out.reason))


class TableHandle:
    """One open table: libiptc's copy in memory, changed in place, written back by `commit`.

    Positions count from 1. Bad chains, positions and rules raise InvalidRuleError in libiptc's words.
    """

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family = family
        error = ffi.new("int *")
        self._table = lib.nfk_table_open(family.value, os.fsencode(name), error)
        if self._table == ffi.NULL:
            raise _open_error(name, family, error[0])

    def close(self) -> None:
        """Free the C memory; further use is an error. Idempotent."""
        table, self._table = self._table, ffi.NULL
        lib.nfk_table_close(table)

    def __enter__(self) -> TableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chains(self) -> list[str]:
        """Names of all chains, base chains first, in table order."""
        names, name = [], lib.nfk_chain_first(self._table)
        while name != ffi.NULL:
            names.append(_text(name))
            name = lib.nfk_chain_next(self._table)
        return names

    def has_chain(self, chain: str) -> bool:
        """Whether the chain exists."""
        return bool(lib.nfk_chain_exists(self._table, os.fsencode(chain)))

    def policy(self, chain: str) -> tuple[str, Counters] | None:
        """Policy and counters of a base chain; None for a user chain."""
        packets, octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        policy = lib.nfk_chain_policy(self._table, os.fsencode(chain), packets, octets)
        return None if policy == ffi.NULL else (_text(policy), Counters(packets[0], octets[0]))

    def rules(self, chain: str) -> Iterator[Rule]:
        """The chain's rules in order."""
        entry = lib.nfk_rule_first(self._table, os.fsencode(chain))
        while entry != ffi.NULL:
            yield self._rule(entry)
            entry = lib.nfk_rule_next(self._table, entry)

    def scan(self, names: Sequence[str]) -> list[tuple[int, int, bool, Rule]]:
        """Rules that carry an extension of one of `names` or go to a user chain.

        As (index of the chain in `chains()`, position from 1, whether it is such a jump, rule).
        """
        words = [ffi.new("char[]", name.encode()) for name in names]
        hits, found = ffi.new("struct nfk_hit **"), ffi.new("size_t *")
        if lib.nfk_table_scan(self._table, ffi.new("char *[]", words), len(words), hits, found):
            raise MemoryError
        try:
            return [
                (hit.chain, hit.position, bool(hit.jump), self._rule(hit.entry))
                for hit in (hits[0][i] for i in range(found[0]))
            ]
        finally:
            lib.nfk_hits_free(hits[0])

    def append(self, chain: str, rule: Rule) -> None:
        """Add a rule at the end."""
        self._check_chain(chain, rule)
        self._with_entry(lib.nfk_rule_append, rule, os.fsencode(chain))

    def insert(self, chain: str, rule: Rule, position: int) -> None:
        """Add a rule so that it becomes number `position`."""
        self._check_chain(chain, rule)
        self._with_entry(lib.nfk_rule_insert, rule, os.fsencode(chain), _index(position))

    def replace(self, chain: str, position: int, rule: Rule) -> None:
        """Put a rule in the place of number `position`."""
        self._check_chain(chain, rule)
        self._with_entry(lib.nfk_rule_replace, rule, os.fsencode(chain), _index(position))

    def delete(self, chain: str, rule: Rule) -> None:
        """Take out the first rule equal to `rule`."""
        self._check_chain(chain, rule)
        entry = ffi.from_buffer(rule.entry)
        self._check(lib.nfk_rule_delete(self._table, os.fsencode(chain), entry, len(rule.entry)), rule)

    def delete_at(self, chain: str, position: int) -> None:
        """Take out rule number `position`."""
        self._check_chain(chain)
        self._check(lib.nfk_rule_delete_at(self._table, os.fsencode(chain), _index(position)))

    def flush(self, chain: str) -> None:
        """Take out all rules of a chain."""
        self._check_chain(chain)
        self._check(lib.nfk_chain_flush(self._table, os.fsencode(chain)))

    def zero(self, chain: str) -> None:
        """Set the counters of a chain and its rules to zero."""
        self._check_chain(chain)
        self._check(lib.nfk_chain_zero(self._table, os.fsencode(chain)))

    def create_chain(self, chain: str) -> None:
        """Add an empty user chain."""
        self._check(lib.nfk_chain_create(self._table, os.fsencode(chain)))

    def delete_chain(self, chain: str) -> None:
        """Take out an empty, unreferenced user chain."""
        self._check_chain(chain)
        error = lib.nfk_chain_delete(self._table, os.fsencode(chain))
        if error in _WHY_NOT_DELETED:  # libiptc knows these words but loses them on the way
            raise InvalidRuleError(f"{_WHY_NOT_DELETED[error]}: {chain}")
        self._check(error)

    def rename_chain(self, chain: str, name: str) -> None:
        """Rename a user chain; jumps follow it."""
        self._check_chain(chain)
        self._check(lib.nfk_chain_rename(self._table, os.fsencode(chain), os.fsencode(name)))

    def set_policy(self, chain: str, policy: str) -> None:
        """Set a base chain's policy, ACCEPT or DROP."""
        self._check(lib.nfk_chain_set_policy(self._table, os.fsencode(chain), os.fsencode(policy)))

    def unchanged_in_kernel(self) -> bool:
        """Whether the kernel's table is, but for counters, still the one that was opened."""
        same = lib.nfk_table_unchanged(self._table)
        if same < 0:
            raise _open_error(self.name, self.family, -same)
        return bool(same)

    def commit(self) -> None:
        """Write the table: one replace, then the counters.

        Raises ConflictError if the kernel saw another writer, CommitError(applied=…) otherwise.
        """
        applied = ffi.new("int *")
        error = lib.nfk_table_commit(self._table, applied)
        if not error:
            return
        why = self._words(error)
        if error == errno.EPERM:
            raise PermissionDeniedError(f"writing table {self.name}")
        if applied[0]:
            raise CommitError(
                f"the new rules of table {self.name} are live, but their counters could not be put back: {why}",
                applied=True,
                errno=error,
            )
        if error == errno.EAGAIN:
            raise ConflictError(self.name)
        raise CommitError(f"the kernel refused the new table {self.name}: {why}", applied=False, errno=error)

    def _rule(self, entry: Any) -> Rule:
        size = lib.nfk_rule_size(self._table, entry)
        into = ffi.new("char[]", size)
        packets, octets = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.nfk_rule_copy(self._table, entry, into, packets, octets)
        return Rule(self.family, bytes(ffi.buffer(into, size)), Counters(packets[0], octets[0]))

    def _with_entry(self, call: Any, rule: Rule, *place: object) -> None:
        if rule.family is not self.family:
            raise InvalidRuleError(f"an {rule.family} rule cannot go into an {self.family} table", str(rule))
        entry = ffi.from_buffer(rule.entry)
        counters = rule.counters
        self._check(call(self._table, *place, entry, len(rule.entry), counters.packets, counters.bytes), rule)

    def _check(self, error: int, rule: Rule | None = None) -> None:
        if error:
            words = self._words(error)
            jump = decode(rule).jump if rule is not None else None
            if error == errno.ENOENT and jump is not None and not self.has_chain(jump):
                require_target(jump, self.family)
            raise InvalidRuleError(words, None if rule is None else str(rule))

    def _check_chain(self, chain: str, rule: Rule | None = None) -> None:
        if not self.has_chain(chain):
            text = None if rule is None else f"-A {chain} {rule}"
            raise InvalidRuleError(f"table {self.name} has no chain {chain!r}", text)

    def _words(self, error: int) -> str:
        return _text(lib.nfk_table_strerror(self._table, error))


_WHY_NOT_DELETED = {
    errno.EINVAL: "Can't delete built-in chain",
    errno.EMLINK: "Can't delete chain with references left",
    errno.ENOTEMPTY: "Chain is not empty",
}
_NATIVE = sys.byteorder
_COUNTERS_AT = {Family.IPV4: 96, Family.IPV6: 152}


def write_recent(list_file: int, lock: int, ear: int, command: bytes) -> int:
    """One command to the file of a list of xt_recent, in a turn of its own.

    1: done. 0: another program has had a turn since, and nothing was done. Else minus the errno.
    """
    result: int = _lib.nfk_recent_write(list_file, lock, ear, command, len(command))
    return result


def read_image(name: str, family: Family) -> Image:
    """The table's image as the kernel has it now, its counters in it. Raises as opening a table does."""
    image = ffi.new("struct nfk_kernel_image *")
    if error := lib.nfk_image_read(family.value, os.fsencode(name), image):
        raise _open_error(name, family, error)
    try:
        entries = bytes(ffi.buffer(image.entries, image.size))
    finally:
        lib.nfk_image_free(image)
    return Image(name, family, entries, image.valid_hooks, tuple(image.hook_entry), tuple(image.underflow))


class WalkHandle:
    """Owns a walker (csrc/xtables_walk.c) and its copies of images; tables are numbered as they are added."""

    __slots__ = ("_walk",)

    def __init__(self, family: Family) -> None:
        self._walk = lib.nfk_walk_new(family.value)
        if self._walk == ffi.NULL:
            raise MemoryError

    def close(self) -> None:
        """Free the C memory; calling it again does nothing."""
        walk, self._walk = self._walk, ffi.NULL
        lib.nfk_walk_free(walk)

    def add(self, image: Image, priority: int, *, watched: bool) -> None:
        """Add a table. Raises ValueError for an image that no kernel would have."""
        error = lib.nfk_walk_add_table(
            self._open(), os.fsencode(image.name), priority, ffi.from_buffer(image.entries), len(image.entries),
            image.valid_hooks, image.hook_entries, image.underflows, watched,
        )  # fmt: skip
        if error == errno.ENOMEM:
            raise MemoryError
        if error:
            raise ValueError(f"this is no image of the {image.family} table {image.name}: {os.strerror(error)}")

    def walk(self, probes: bytes, times: Sequence[int] | None) -> bytes:
        """What becomes of each probe: struct nfk_walked, packed. With `times`, counts. Raises ValueError."""
        count, rest = divmod(len(probes), ffi.sizeof("struct nfk_probe"))
        if rest or (times is not None and len(times) != count):
            raise ValueError("a list of probes that is cut off, or as many times as there are not probes")
        out = ffi.new("struct nfk_walked[]", count)
        so_often = ffi.NULL if times is None else ffi.new("uint32_t[]", times)
        given = ffi.from_buffer("struct nfk_probe[]", probes)
        error = lib.nfk_walk_flows(self._open(), given, count, so_often, out)
        if error == errno.ENOMEM:
            raise MemoryError
        if error:
            raise ValueError("a probe of another family, or on a way that there is none of")
        return bytes(ffi.buffer(out))

    def counters(self, table: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """Packets, bytes, doubts and possible packets by entry."""
        count = lib.nfk_walk_entries(self._open(), table)
        columns = [ffi.new("uint64_t[]", max(1, count)) for _ in range(4)]
        lib.nfk_walk_counters(self._walk, table, *columns)
        packets, octets, doubts, possible = (ffi.unpack(column, count) for column in columns)
        return packets, octets, doubts, possible

    def zero(self) -> None:
        """Forget what was counted."""
        lib.nfk_walk_zero(self._open())

    def tell(self, table: int, answers: bytes) -> None:
        """By entry: 0 no, 1 yes, 2 not known. Raises ValueError for another number of entries."""
        if len(answers) != lib.nfk_walk_entries(self._open(), table):
            raise ValueError("not one answer for each entry")
        lib.nfk_walk_tell(self._walk, table, ffi.from_buffer(answers))

    def _open(self) -> Any:
        if self._walk == ffi.NULL:
            raise ValueError("this walker is closed")
        return self._walk


def _text(chars: Any) -> str:
    return os.fsdecode(ffi.string(chars))


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
    return UnsupportedError(f"reading the {family} table {name}: {os.strerror(error)}", feature=name)
