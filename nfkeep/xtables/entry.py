"""A rule's bytes taken apart: the simple conditions in its head, its matches and its target.

Layouts: struct ipt_entry, ip6t_entry (linux/netfilter_ipv{4/ip,6/ip6}_tables.h), xt_entry_match (x_tables.h).
"""

from __future__ import annotations

import struct

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.model import Family, Rule

INV_IN_INTERFACE, INV_OUT_INTERFACE, INV_SOURCE, INV_DESTINATION = 0x01, 0x02, 0x08, 0x10
INV_PROTOCOL = 0x40
_GOTO = {Family.IPV4: 0x02, Family.IPV6: 0x04}
_JUMP_REVISION = 255  # NFK_JUMP in csrc/xtables_world.h
_VERDICTS = frozenset({"", "ACCEPT", "DROP", "QUEUE", "RETURN"})

_HEAD = {
    Family.IPV4: struct.Struct("=4s4s4s4s16s16s16s16sHBB"),
    Family.IPV6: struct.Struct("=16s16s16s16s16s16s16s16sHBBB"),
}
_OFFSETS = {Family.IPV4: (88, 112), Family.IPV6: (140, 168)}
_ENDS = struct.Struct("=HH")  # of the matches, which is where the target begins, and of all
_EXTENSION = struct.Struct("=H29sB")
_ALIGNMENT = 8  # of struct xt_counters
# Bytes of data as far as anybody here reads them. All that come from the kernel are longer.
_READ = {
    "connlimit": 24,
    "conntrack": 152,
    "limit": 8,
    "multiport": 48,
    "quota": 16,
    "recent": 211,
    "state": 4,
    "statistic": 8,
    "tcp": 12,
    "udp": 9,
}


@attrs.frozen(slots=True)
class Extension:
    """A match or a target: what the kernel finds it by, and its data as they are."""

    name: str
    revision: int
    data: bytes


@attrs.frozen(slots=True)
class Entry:
    """A decoded rule. `verdict` is a chain or ACCEPT, DROP, QUEUE, RETURN or ""; None if `target` is an extension."""

    family: Family
    source: bytes
    destination: bytes
    source_mask: bytes
    destination_mask: bytes
    in_interface: bytes
    out_interface: bytes
    in_interface_mask: bytes
    out_interface_mask: bytes
    protocol: int
    inverted: int
    goto: bool
    matches: tuple[Extension, ...]
    verdict: str | None
    target: Extension | None

    @property
    def jump(self) -> str | None:
        """The user chain that the rule goes to, if it does."""
        return None if self.verdict is None or self.verdict in _VERDICTS else self.verdict


def decode(rule: Rule) -> Entry:
    """Take a rule apart. Raises InvalidRuleError for bytes that are none."""
    family, raw = rule.family, rule.entry
    at_offset, at = _OFFSETS[family]
    matches = []
    try:
        fields = _HEAD[family].unpack_from(raw)
        target_at, end = _ENDS.unpack_from(raw, at_offset)
        while at < target_at <= end == len(raw):
            size, extension = _extension(raw, at)
            matches.append(extension)
            at += size
        size, target = _extension(raw, target_at)
    except struct.error:  # something would lie past their end
        raise not_a_rule(raw) from None
    if at != target_at or target_at + size != end or end != len(raw):
        raise not_a_rule(raw)
    addresses, (protocol, *_, flags, inverted) = fields[:8], fields[8:]
    plain = size == 40 and (target.revision == _JUMP_REVISION or target.name in _VERDICTS)
    source, destination, source_mask, destination_mask, *interfaces = addresses
    in_interface, out_interface, in_interface_mask, out_interface_mask = interfaces
    return Entry(
        family,
        source,
        destination,
        source_mask,
        destination_mask,
        in_interface,
        out_interface,
        in_interface_mask,
        out_interface_mask,
        protocol,
        inverted,
        bool(flags & _GOTO[family]),
        tuple(matches),
        target.name if plain else None,
        None if plain else target,
    )


def not_a_rule(entry: bytes) -> InvalidRuleError:
    """The error for bytes whose lengths are not those of an entry."""
    return InvalidRuleError(f"these {len(entry)} bytes are not a rule")


def with_match(rule: Rule, index: int, match: Extension) -> Rule:
    """The rule with other data, of the same length, in its match number `index`, from 0."""
    _, at = _OFFSETS[rule.family]
    for _ in range(index):
        size, _passed = _extension(rule.entry, at)
        at += size
    size, old = _extension(rule.entry, at)
    if (old.name, old.revision, len(old.data)) != (match.name, match.revision, len(match.data)):
        raise ValueError(f"match {index} is {old.name}, not {match.name} of the same length")
    return attrs.evolve(rule, entry=rule.entry[: at + 32] + match.data + rule.entry[at + size :])


def _extension(raw: bytes, at: int) -> tuple[int, Extension]:
    size, name, revision = _EXTENSION.unpack_from(raw, at)
    if size < _EXTENSION.size or size % _ALIGNMENT:
        raise not_a_rule(raw)
    extension = Extension(name.split(b"\0")[0].decode(errors="surrogateescape"), revision, raw[at + 32 : at + size])
    if len(extension.data) < _READ.get(extension.name, 0):
        raise InvalidRuleError(f"{len(extension.data)} bytes are no data of {extension.name}")
    return size, extension
