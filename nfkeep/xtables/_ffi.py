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


def doorkeeper_open() -> int:
    """A descriptor of a fanotify group whose events hold up openers (fanotify(7), FAN_OPEN_PERM). Raises OSError."""
    return _made(lib.nfk_doorkeeper_open(), "fanotify_init")


def doorkeeper_add(group: int, file: int) -> None:
    """Let the group hold up all who open the file that `file` is open on. Raises OSError."""
    _done(lib.nfk_doorkeeper_add(group, file), "fanotify_mark")


def listener_open() -> int:
    """A descriptor of an inotify group. Raises OSError."""
    return _made(lib.nfk_listener_open(), "inotify_init1")


def listener_add(group: int, file: int, *, openings: bool) -> None:
    """Let the group tell when the file gets or loses a name and, if asked, when it is opened and closed."""
    _done(lib.nfk_listener_add(group, b"/proc/self/fd/%d" % file, openings), "inotify_add_watch")


def ticker_open(seconds: float) -> int:
    """A descriptor that becomes readable every so many seconds (timerfd). Raises OSError."""
    return _made(lib.nfk_ticker_open(max(1, round(seconds * 1e9))), "timerfd_create")


def table_size_mark(socket: int, family: Family, name: str) -> int:
    """A number that changes with the table's size or hooks. Costs one getsockopt. Raises OSError."""
    return _mark(lib.nfk_table_size_mark, socket, family, name)


def table_rules_mark(socket: int, family: Family, name: str) -> int:
    """A number that changes with the table's rules, but not with their counters. Reads all of it. Raises OSError."""
    return _mark(lib.nfk_table_rules_mark, socket, family, name)


def _mark(call: Any, socket: int, family: Family, name: str) -> int:
    mark = ffi.new("uint64_t *")
    _done(call(socket, family.value, os.fsencode(name), mark), f"reading the {family} table {name}")
    return int(mark[0])


def _made(descriptor: int, doing: str) -> int:
    if descriptor < 0:
        raise OSError(-descriptor, f"{doing}: {os.strerror(-descriptor)}")
    return descriptor


def _done(error: int, doing: str) -> None:
    if error:
        raise OSError(error, f"{doing}: {os.strerror(error)}")
