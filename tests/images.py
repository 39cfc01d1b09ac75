"""Images of tables as the kernel would have them, built from rule text without a kernel."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import nfkeep.xtables.text  # noqa: F401  (gives rules their text)
from nfkeep.model import Counters, Family, Hook, Rule
from nfkeep.xtables.image import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_VERDICTS = {"DROP": -1, "ACCEPT": -2, "QUEUE": -4, "RETURN": -5}
_HEAD = {Family.IPV4: 112, Family.IPV6: 168}
_AT = {Family.IPV4: 88, Family.IPV6: 140}
_COUNTERS = {Family.IPV4: 96, Family.IPV6: 152}


def image(chains: Mapping[str, Sequence[str]], name: str = "filter", family: Family = Family.IPV4) -> Image:
    """A table of these chains: base chains, with the policy ACCEPT, first; a rule is what follows `-A CHAIN`."""
    entries: list[bytes] = []
    starts: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    starts_of_hooks, policies = [0] * 5, [0] * 5
    valid, at = 0, 0

    def add(entry: bytes) -> None:
        nonlocal at
        entries.append(entry)
        at += len(entry)

    for chain, rules in chains.items():
        base = chain in Hook.__members__
        if not base:
            add(_entry(family, struct.pack("=H30s30s2x", 64, b"ERROR", chain.encode())))
        starts[chain] = at
        for text in rules:
            raw = Rule.parse(text, family).entry
            target = int.from_bytes(raw[_AT[family] : _AT[family] + 2], "little")
            word = raw[target + 2 : target + 31].split(b"\0")[0].decode()
            if len(raw) - target == 40 and (word in _VERDICTS or word in chains or not word):
                if word in chains:
                    jumps.append((len(entries), word))
                own = at + target + 40  # without a target it goes to the next rule, as libiptc has it
                raw = raw[:target] + _standard(_VERDICTS.get(word, own))
            add(raw)
        if base:
            hook = Hook[chain]
            valid |= 1 << hook
            starts_of_hooks[hook], policies[hook] = starts[chain], at
        add(_entry(family, _standard(_VERDICTS["ACCEPT" if base else "RETURN"])))
    add(_entry(family, struct.pack("=H30s30s2x", 64, b"ERROR", b"ERROR")))
    for index, chain in jumps:
        entries[index] = entries[index][:-8] + struct.pack("=i4x", starts[chain])
    return Image(name, family, b"".join(entries), len(entries), valid, tuple(starts_of_hooks), tuple(policies))


def raised(table: Image, by: Mapping[int, Counters]) -> Image:
    """The same table after these entries have counted."""
    entries = bytearray(table.entries)
    start = 0
    for index in range(len(table.counters())):
        at = start + _COUNTERS[table.family]
        more = by.get(index, Counters())
        packets, octets = struct.unpack_from("=QQ", entries, at)
        struct.pack_into("=QQ", entries, at, packets + more.packets, octets + more.bytes)
        start += int.from_bytes(entries[start + _AT[table.family] + 2 :][:2], "little")
    return Image(
        table.name, table.family, bytes(entries), table.number, table.valid_hooks, table.hook_entries, table.underflows
    )


def _standard(verdict: int) -> bytes:
    return struct.pack("=H30si4x", 40, b"", verdict)


def _entry(family: Family, target: bytes) -> bytes:
    head = bytearray(_HEAD[family])
    struct.pack_into("=HH", head, _AT[family], len(head), len(head) + len(target))
    return bytes(head) + target
