"""The values that all layers share: rules, chains, tables and their counters, frozen and without any I/O.

A `Rule` holds the kernel's own bytes, so an extension that nobody here can decode still goes through unharmed;
turning text into those bytes and back is the work of a codec that the legacy world installs (`nfkeep.xtables.text`).
"""

from __future__ import annotations

import enum
import socket
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


class Family(enum.Enum):
    """An address family; the value is the kernel's NFPROTO_* number (linux/netfilter.h)."""

    IPV4 = socket.AF_INET
    IPV6 = socket.AF_INET6

    def __str__(self) -> str:
        return "IPv4" if self is Family.IPV4 else "IPv6"


class Hook(enum.IntEnum):
    """Where a packet meets a base chain: NF_INET_* in linux/netfilter.h."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


@attrs.frozen(slots=True)
class Counters:
    """Packets and bytes, as struct xt_counters."""

    packets: int = 0
    bytes: int = 0


class RuleCodec(Protocol):
    """Turns rule text into a `Rule` and back."""

    def parse(self, text: str, family: Family) -> Rule:
        """The rule that `text` describes; raises InvalidRuleError."""

    def format(self, rule: Rule) -> str:
        """The rule as iptables-save prints it, without `-A CHAIN`."""

    def same(self, one: Rule, other: Rule) -> bool:
        """Whether two rules of a family have the same text, and that says all of them."""


_codec: RuleCodec | None = None


def install_codec(codec: RuleCodec) -> None:
    """Set what `Rule.parse` and `str(rule)` go through."""
    global _codec
    _codec = codec


@attrs.frozen(slots=True, eq=False)
class Rule:
    """One legacy rule.

    `entry` is struct ipt_entry or ip6t_entry with its matches and its target, counters zero; a jump to a chain or a
    verdict stands as its name in the target header, as libiptc takes it. Two rules are equal if they do the same,
    whatever they have counted: their bytes are the same, or what differs is nothing that the extensions look at (the
    rest of a mask of 16 bytes in an IPv4 rule, say), so that both print as the same text.
    """

    family: Family
    entry: bytes = attrs.field(repr=False)
    counters: Counters = Counters()

    @classmethod
    def parse(cls, text: str, family: Family = Family.IPV4) -> Rule:
        """The rule that `text` describes, in iptables' syntax, without `-A CHAIN`.

        Raises InvalidRuleError with the extension's own words where the text is not a rule.
        """
        assert _codec is not None, "nfkeep.xtables.text installs the codec"
        return _codec.parse(text, family)

    def __str__(self) -> str:
        assert _codec is not None, "nfkeep.xtables.text installs the codec"
        return _codec.format(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        if self.family is not other.family or len(self.entry) != len(other.entry):
            return False
        if self.entry == other.entry:
            return True
        assert _codec is not None, "nfkeep.xtables.text installs the codec"
        addresses = _ADDRESSES[self.family]  # mostly tell them apart, and quickly
        return self.entry[:addresses] == other.entry[:addresses] and _codec.same(self, other)

    def __hash__(self) -> int:
        assert _codec is not None, "nfkeep.xtables.text installs the codec"
        return hash((self.family, _codec.format(self)))


_ADDRESSES = {Family.IPV4: 16, Family.IPV6: 64}  # two addresses and their masks open struct ipt_ip and ip6t_ip6


@attrs.frozen(slots=True)
class Chain:
    """A chain with its rules in order. `policy` and its `counters` belong to base chains only (else None)."""

    name: str
    rules: tuple[Rule, ...] = ()
    policy: str | None = None
    counters: Counters | None = None


@attrs.frozen(slots=True)
class Table:
    """One table as it was when read."""

    name: str
    family: Family
    chains: Mapping[str, Chain]
