"""A table's image, the bytes that the kernel hands out, as a value: entries with their counters and places.

Layouts: struct ipt_entry, ip6t_entry, ipt_getinfo (linux/netfilter_ipv4/ip_tables.h and its IPv6 twin).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.model import Counters, Family, Hook, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_TARGET_AND_NEXT_AT = {Family.IPV4: 88, Family.IPV6: 140}
_FROM_TARGET_ON = {Family.IPV4: struct.Struct("=HH4xQQ"), Family.IPV6: struct.Struct("=HH8xQQ")}  # counters come last
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

    def counted(self, without: Iterable[bytes] = ()) -> Iterator[tuple[str, int, Counters]]:
        """Chain, position from 1 and counters of each rule; a policy stands behind the rules.

        Rules in which one of the texts `without` is are as if they were not there.
        """
        entries, at, unpack = self.entries, _TARGET_AND_NEXT_AT[self.family], _FROM_TARGET_ON[self.family].unpack_from
        starts, start, chain, position = self._starts(), 0, "", 0
        marks = sorted(each for text in without for each in _all_of(text, entries))
        marks.append(len(entries))  # behind the last one
        mark = iter(marks)
        left_out = next(mark)
        while start < len(entries):
            target, following, packets, octets = unpack(entries, start + at)
            if start in starts:
                chain, position = starts[start], 0
            end = start + following
            if entries.startswith(_ERROR, start + target + 2):
                chain, position = self._name(start + target), 0
            elif left_out >= end:
                position += 1
                yield chain, position, Counters(packets, octets)
            while left_out < end:
                left_out = next(mark)
            start = end

    def places(self) -> list[tuple[str, int] | None]:
        """Chain and position from 1 of each entry; None for the heads of chains. A policy stands behind the rules."""
        starts, chain, position = self._starts(), "", 0
        found: list[tuple[str, int] | None] = []
        for start, target in self._walk():
            if start in starts:
                chain, position = starts[start], 0
            if self.entries.startswith(_ERROR, target + 2):
                chain, position = self._name(target), 0
                found.append(None)
                continue
            position += 1
            found.append((chain, position))
        return found

    def edited(self, edit: Callable[[tuple[str, int], Rule], Rule]) -> Image:
        """The image with what `edit` makes of each rule, given its place as `places`; as long as it was.

        The rules have the kernel's own bytes.
        """
        at, pieces = _COUNTERS_AT[self.family], []
        ends = [*(start for start, _ in self._walk()), len(self.entries)][1:]
        for (start, _), end, place in zip(self._walk(), ends, self.places(), strict=True):
            entry = self.entries[start:end]
            if place is not None:
                rule = edit(place, Rule(self.family, entry, Counters(*_PAIR.unpack_from(entry, at))))
                counters = _PAIR.pack(rule.counters.packets, rule.counters.bytes)
                entry = rule.entry[:at] + counters + rule.entry[at + _PAIR.size :]
            pieces.append(entry)
        return attrs.evolve(self, entries=b"".join(pieces))

    def with_counters(self, packets: Sequence[int], octets: Sequence[int]) -> Image:
        """The image with these counters, by entry in the kernel's order."""
        at, entries = _COUNTERS_AT[self.family], bytearray(self.entries)
        for (start, _), *counters in zip(self._walk(), packets, octets, strict=True):
            _PAIR.pack_into(entries, start + at, *counters)
        return attrs.evolve(self, entries=bytes(entries))

    def _starts(self) -> dict[int, str]:
        return {self.hook_entries[hook]: hook.name for hook in Hook if self.valid_hooks >> hook & 1}

    def _name(self, target: int) -> str:
        """The name of the chain whose head has its target there."""
        return self.entries[target + 32 : target + 62].split(b"\0")[0].decode(errors="replace")

    def _walk(self) -> Iterator[tuple[int, int]]:
        """Where each entry and its target begin."""
        at, start = _TARGET_AND_NEXT_AT[self.family], 0
        while start < len(self.entries):
            target, following = _OFFSETS.unpack_from(self.entries, start + at)
            yield start, start + target
            start += following


def _all_of(text: bytes, entries: bytes) -> Iterator[int]:
    """Where the text is, each time."""
    at = entries.find(text)
    while at >= 0:
        yield at
        at = entries.find(text, at + 1)
