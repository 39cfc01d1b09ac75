"""Sees that a legacy table is another than before, by looking: for programs that do not take the xtables lock."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from nfkeep.errors import PermissionDeniedError, UnsupportedError
from nfkeep.model import Family
from nfkeep.xtables import _ffi

__all__ = ["TableMarks"]

_Mark = Callable[[int, Family, str], int]


class TableMarks:
    """What the tables given were when last noted. In the network namespace of the thread that makes the object.

    A replace by equal rules leaves no trace that can be read: the kernel numbers neither tables nor replaces
    (struct xt_table_info in net/netfilter/x_tables.c). Tables that are not set up yet are set up by asking.
    Raises PermissionDeniedError without CAP_NET_ADMIN and CAP_NET_RAW, UnsupportedError without the family.
    """

    def __init__(self, tables: Iterable[tuple[Family, str]]) -> None:
        self._tables = tuple(tables)
        self._sockets: dict[Family, socket.socket] = {}
        try:
            for family in dict(self._tables):
                self._sockets[family] = _raw_socket(family)
            self.note()
        except BaseException:
            self.close()
            raise

    def note(self) -> None:
        """Take what the tables are now for what they were."""
        self._sizes = self._read(_ffi.table_size_mark)
        self._rules = self._read(_ffi.table_rules_mark)

    def changed(self, *, thoroughly: bool) -> bool:
        """Whether a table is another than when last noted: its size or hooks or, `thoroughly`, any of its rules."""
        if self._read(_ffi.table_size_mark) != self._sizes:
            return True
        return thoroughly and self._read(_ffi.table_rules_mark) != self._rules

    def close(self) -> None:
        """Idempotent."""
        for one in self._sockets.values():
            one.close()

    def _read(self, mark: _Mark) -> list[int | None]:
        return [_marked(mark, self._sockets[family].fileno(), family, name) for family, name in self._tables]


def _marked(mark: _Mark, descriptor: int, family: Family, name: str) -> int | None:
    try:
        return mark(descriptor, family, name)
    except OSError:  # gone, or changing all the time: that is a state, too
        return None


def _raw_socket(family: Family) -> socket.socket:
    try:
        return socket.socket(family.value, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    except PermissionError:
        raise PermissionDeniedError(f"watching the {family} tables") from None
    except OSError as error:
        raise UnsupportedError(f"this kernel has no {family}: {error.strerror}", feature=str(family)) from None
