"""A table's image, the bytes that the kernel hands out, as a value: entries with their counters and places.

Layouts: struct ipt_entry, ip6t_entry, ipt_getinfo (linux/netfilter_ipv4/ip_tables.h and its IPv6 twin).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.model import Counters, Family, Hook

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TARGET_AND_NEXT_AT = {Family.IPV4: 88, Family.IPV6: 140}
_COUNTERS_AT = {Family.IPV4: 96, Family.IPV6: 152}
_OFFSETS, _PAIR = struct.Struct("=HH"), struct.Struct("=QQ")
_ERROR = b"ERROR\0"  # XT_ERROR_TARGET: the head of a user chain, with its name behind, and the end of the table


@attrs.frozen(slots=True)
class Image:
    """One table as the kernel has it, `number` entries.

    `hook_entries` and `underflows`: offsets by hook, where `valid_hooks` has it.
    """

    name: str
    family: Family
    entries: bytes = attrs.field(repr=False)
    number: int
    valid_hooks: int
    hook_entries: tuple[int, ...]
    underflows: tuple[int, ...]

    def counters(self) -> list[Counters]:
        """The counters of each entry, in the kernel's order."""
        at = _COUNTERS_AT[self.family]
        return [Counters(*_PAIR.unpack_from(self.entries, start + at)) for start, _ in self._walk()]

    def rules(self) -> Iterator[tuple[str, int, Counters, bytes]]:
        """Chain, position from 1, counters and bytes of each rule; a policy stands behind the rules."""
        entries, at, walk = self.entries, _COUNTERS_AT[self.family], list(self._walk())
        ends = [*(start for start, _ in walk[1:]), len(entries)]
        for place, (start, _), end in zip(self._places(walk), walk, ends, strict=True):
            if place is not None:
                yield (*place, Counters(*_PAIR.unpack_from(entries, start + at)), entries[start:end])

    def places(self) -> list[tuple[str, int] | None]:
        """Chain and position from 1 of each entry; None for the heads of chains. A policy stands behind the rules."""
        return self._places(self._walk())

    def _places(self, walk: Iterable[tuple[int, int]]) -> list[tuple[str, int] | None]:
        starts = {self.hook_entries[hook]: hook.name for hook in Hook if self.valid_hooks >> hook & 1}
        chain, position = "", 0
        found: list[tuple[str, int] | None] = []
        for start, target in walk:
            if start in starts:
                chain, position = starts[start], 0
            if self.entries.startswith(_ERROR, target + 2):
                chain, position = self.entries[target + 32 : target + 62].split(b"\0")[0].decode(errors="replace"), 0
                found.append(None)
                continue
            position += 1
            found.append((chain, position))
        return found

    def _walk(self) -> Iterator[tuple[int, int]]:
        """Where each entry and its target begin."""
        at, start = _TARGET_AND_NEXT_AT[self.family], 0
        while start < len(self.entries):
            target, following = _OFFSETS.unpack_from(self.entries, start + at)
            yield start, start + target
            start += following
