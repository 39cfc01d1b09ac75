"""The walker: which rules opening packets will meet."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from nfkeep.model import Family
from nfkeep.xtables._ffi.door import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.xtables.image import Image


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
        given, count = _probes(probes)
        if times is not None and len(times) != count:
            raise ValueError("as many times as there are not probes")
        out = ffi.new("struct nfk_walked[]", count)
        so_often = ffi.NULL if times is None else ffi.new("uint32_t[]", times)
        _check(lib.nfk_walk_flows(self._open(), given, count, so_often, out))
        return bytes(ffi.buffer(out))

    def tally(self, probes: bytes) -> None:
        """Count the flows of each key at the limits on connections. Raises ValueError."""
        _check(lib.nfk_walk_tally(self._open(), *_probes(probes)))

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

    def all_arrive(self) -> None:
        """Have no rule match that would drop a packet, where nobody can tell."""
        lib.nfk_walk_all_arrive(self._open())

    def _open(self) -> Any:
        if self._walk == ffi.NULL:
            raise ValueError("this walker is closed")
        return self._walk


def _probes(probes: bytes) -> tuple[Any, int]:
    count, rest = divmod(len(probes), ffi.sizeof("struct nfk_probe"))
    if rest:
        raise ValueError("a list of probes that is cut off")
    return ffi.from_buffer("struct nfk_probe[]", probes), count


def _check(error: int) -> None:
    if error == errno.ENOMEM:
        raise MemoryError
    if error:
        raise ValueError("a probe of another family, or on a way that there is none of")
