"""What goes into nft tables of nfkeep's own, as frozen values: sets, counters, base chains and their rules.

Only what the guard and ban lists need, in the kernel's own terms (linux/netfilter/nf_tables.h): a rule is a row of
expressions that load something into the one register used here, change it, or test it. No I/O; `nfkeep.nft.encode`
makes messages of it.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from nfkeep.model import Hook

REGISTER_BYTES = 16
"""NFT_REG_SIZE: more than this one expression cannot load or compare."""


def _fits(instance: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
    if not 1 <= len(value) <= REGISTER_BYTES:
        raise ValueError(f"{attribute.name}: {len(value)} bytes, not 1 to {REGISTER_BYTES}")


def _length(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not 1 <= value <= REGISTER_BYTES:
        raise ValueError(f"{attribute.name}: {value} bytes, not 1 to {REGISTER_BYTES}")


def _fits_all(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not 1 <= value <= 4 * REGISTER_BYTES:
        raise ValueError(f"{attribute.name}: {value} bytes, not 1 to {4 * REGISTER_BYTES}")


class MetaKey(enum.IntEnum):
    """What Meta can load: enum nft_meta_keys. The names are 16 bytes, filled up with zeros; the others are one byte."""

    IIFNAME = 6
    OIFNAME = 7
    NFPROTO = 15
    L4PROTO = 16


class CtKey(enum.IntEnum):
    """What Ct can load: enum nft_ct_keys.

    The state is a mask of 32 bits in the byte order of the host, the direction one byte, the port two as in the packet.
    """

    STATE = 0
    DIRECTION = 1
    PROTO_DST = 12


class Header(enum.IntEnum):
    """Where the offset of a Payload starts: enum nft_payload_bases."""

    NETWORK = 1
    TRANSPORT = 2


class Relation(enum.IntEnum):
    """How a comparison must end for the rule to go on: the first two of enum nft_cmp_ops, and of nft_range_ops."""

    EQ = 0
    NEQ = 1


class Verdict(enum.IntEnum):
    """An expression that ends the rule: NF_DROP and NF_ACCEPT of linux/netfilter.h."""

    DROP = 0
    ACCEPT = 1


@attrs.frozen(slots=True)
class Meta:
    """Load what is known of the packet beside its bytes. net/netfilter/nft_meta.c."""

    key: MetaKey


@attrs.frozen(slots=True)
class Ct:
    """Load from the packet's conntrack entry, of its original direction where asked. net/netfilter/nft_ct.c."""

    key: CtKey
    original: bool = False


@attrs.frozen(slots=True)
class Payload:
    """Load bytes of the packet; the rule ends where the packet is too short. net/netfilter/nft_payload.c."""

    base: Header
    offset: int
    length: int = attrs.field(validator=_length)


@attrs.frozen(slots=True)
class Bitwise:
    """Keep the bits of `mask`, then turn those of `xor`; both of one length. net/netfilter/nft_bitwise.c."""

    mask: bytes = attrs.field(validator=_fits)
    xor: bytes = attrs.field()

    @xor.validator
    def _same_length(self, attribute: attrs.Attribute[bytes], value: bytes) -> None:
        if len(value) != len(self.mask):
            raise ValueError(f"xor: {len(value)} bytes, the mask has {len(self.mask)}")


@attrs.frozen(slots=True)
class Compare:
    """Go on if the first bytes of the register are these, or are not. net/netfilter/nft_cmp.c."""

    relation: Relation
    value: bytes = attrs.field(validator=_fits)


@attrs.frozen(slots=True)
class Range:
    """Go on if the register is in `low` to `high`, both included, or is not. net/netfilter/nft_range.c."""

    relation: Relation
    low: bytes = attrs.field(validator=_fits)
    high: bytes = attrs.field()

    @high.validator
    def _no_less(self, attribute: attrs.Attribute[bytes], value: bytes) -> None:
        if len(value) != len(self.low) or value < self.low:
            raise ValueError(f"high: {value.hex()} is no end of a range from {self.low.hex()}")


@attrs.frozen(slots=True)
class Lookup:
    """Go on if the register is an element of the set. net/netfilter/nft_lookup.c."""

    set_name: str


@attrs.frozen(slots=True)
class Key:
    """Load bytes of the packet into as many registers as they fill: what an element of a set of several fields is."""

    base: Header
    offset: int
    length: int = attrs.field(validator=_fits_all)


@attrs.frozen(slots=True)
class Limit:
    """What an element may have of its own: so many packets or bytes in a time, after a burst (nft_limit.c).

    `over`: it holds for what exceeds it.
    """

    rate: int
    unit_seconds: int
    burst: int
    in_bytes: bool = False
    over: bool = False


@attrs.frozen(slots=True)
class AskLimit:
    """Ask the limit of the element that the registers say, which is added unless it is there; its time goes on.

    The rule goes on where the limit holds. net/netfilter/nft_dynset.c.
    """

    set_name: str
    limit: Limit


@attrs.frozen(slots=True)
class Jump:
    """Go on in another chain, and come back behind this rule; with `goto` behind the one that led here."""

    chain: str
    goto: bool = False


class RejectType(enum.IntEnum):
    """enum nft_reject_types."""

    TCP_RESET = 1
    ICMPX = 2


@attrs.frozen(slots=True)
class Reject:
    """Answer, and end the rule. `code` is of enum nft_reject_inet_code, for ICMPX. net/netfilter/nft_reject_inet.c."""

    type: RejectType
    code: int = 0


@attrs.frozen(slots=True)
class Counter:
    """Count the packet in the rule itself. net/netfilter/nft_counter.c."""


@attrs.frozen(slots=True)
class CountIn:
    """Count the packet in a named counter of the table. net/netfilter/nft_objref.c."""

    counter: str


Expression: TypeAlias = (
    Meta
    | Ct
    | Payload
    | Key
    | Bitwise
    | Compare
    | Range
    | Lookup
    | AskLimit
    | Counter
    | CountIn
    | Verdict
    | Jump
    | Reject
)
Rule: TypeAlias = tuple[Expression, ...]


@attrs.frozen(slots=True)
class Element:
    """An element of a set; the kernel takes it out after `timeout_seconds`."""

    key: bytes = attrs.field(validator=_fits)
    timeout_seconds: float = attrs.field(validator=attrs.validators.gt(0))


@attrs.frozen(slots=True)
class TimedSet:
    """A named set of protocol numbers (one byte each), `flags timeout`."""

    name: str
    elements: tuple[Element, ...] = ()


@attrs.frozen(slots=True)
class BaseChain:
    """A chain of type filter at a hook, policy accept."""

    name: str
    hook: Hook
    priority: int
    rules: tuple[Rule, ...] = ()


@attrs.frozen(slots=True)
class Ruleset:
    """All that is in one table of family inet. The table gets its name, and `flags owner`, when it is made."""

    sets: tuple[TimedSet, ...] = ()
    counters: tuple[str, ...] = ()
    chains: tuple[BaseChain, ...] = ()
