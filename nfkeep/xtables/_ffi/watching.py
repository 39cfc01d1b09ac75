"""What watches the xtables lock and the tables, and the one call to the files of xt_recent."""

from __future__ import annotations

import os
from typing import Any

from nfkeep.model import Family
from nfkeep.xtables._ffi.door import ffi, lib


def write_recent(list_file: int, lock: int, ear: int, command: bytes) -> int:
    """One command to the file of a list of xt_recent, in a turn of its own.

    1: done. 0: another program has had a turn since, and nothing was done. Else minus the errno.
    """
    result: int = lib.nfk_recent_write(list_file, lock, ear, command, len(command))
    return result


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
