"""What every change asks before it begins: one call each, nothing around it, as a small change takes 30 us in all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfkeep.xtables._ffi.door import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

try_lock: Callable[[bytes, bytes], int] = lib.nfk_lock_try
"""Opens a file, named by an environment variable or else by default, and takes flock(2) on it; negative: -errno."""

is_absent: Callable[[bytes, bytes], int] = lib.nfk_is_absent
"""Whether there is no such file."""


class Surroundings:
    """What a change asks for: where the lock is, and the run directory, each as an environment variable that names it
    and what it is otherwise; `keeping`, the names of extensions that keep state.
    """

    __slots__ = ("_kept", "pointer")

    def __init__(self, *, lock: tuple[str, str], run: tuple[str, str], keeping: tuple[str, ...]) -> None:
        names = [ffi.new("char[]", each.encode()) for each in keeping]
        self._kept = [ffi.new("char[]", each.encode()) for each in (*lock, *run)]
        self._kept += [*names, ffi.new("char *[]", names)]
        self.pointer: Any = ffi.new("struct nfk_surroundings *", [*self._kept[:4], self._kept[-1], len(names)])
