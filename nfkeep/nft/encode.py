"""A ruleset as nfnetlink messages, and a batch of messages as the bytes of one transaction. Pure packing, no I/O.

linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h name the numbers. Headers are in the byte order of the
host; what nf_tables puts into attributes is big-endian.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from nfkeep.nft.ruleset import (
    BaseChain,
    Bitwise,
    Compare,
    Counter,
    CountIn,
    Ct,
    Expression,
    Lookup,
    Meta,
    Payload,
    Range,
    Relation,
    Rule,
    Ruleset,
    TimedSet,
    Verdict,
)

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE = 0, 2, 3, 6
NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 9, 12, 14
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ = 18, 19

NLA_F_NESTED = 0x8000
MESSAGE_HEAD = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg; its last field is big-endian
ATTRIBUTE_HEAD = struct.Struct("=HH")  # struct nlattr

_NFPROTO_UNSPEC, _NFPROTO_INET = 0, 1
_NFT_TABLE_F_OWNER = 0x2
_NFT_SET_TIMEOUT = 0x10
_NFT_OBJECT_COUNTER = 1
_NFT_REG_1 = 1
_INET_PROTOCOL = 12  # the nft command's own number for the type, which the kernel only keeps: TYPE_INET_PROTOCOL
_BIG = struct.Struct("!H").unpack(struct.pack("=H", NFNL_SUBSYS_NFTABLES))[0]
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")


@attrs.frozen(slots=True)
class Message:
    """One message of a batch: NFT_MSG_*, NLM_F_* beside REQUEST, its attributes, and what it is, for errors."""

    kind: int
    flags: int
    body: bytes = attrs.field(repr=False)
    what: str


def make_table(name: str, ruleset: Ruleset) -> list[Message]:
    """The messages that make the table, owned by the socket that sends them. A name that is taken is an error."""
    table = _text(1, name)
    flags = _text(1, name) + _number(2, _NFT_TABLE_F_OWNER)
    messages = [Message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, flags, "the table, with flags owner")]
    for number, each in enumerate(ruleset.sets):
        messages += _set(table, each, number + 1)
    for counter in ruleset.counters:
        body = table + _text(2, counter) + _number(3, _NFT_OBJECT_COUNTER) + _nest(4, b"")
        messages.append(Message(NFT_MSG_NEWOBJ, NLM_F_CREATE, body, f"the counter {counter}"))
    packed = _Packed()
    for chain in ruleset.chains:
        messages += _chain(table, chain, packed)
    return messages


def delete_table(name: str) -> Message:
    """The message that deletes the table with all that is in it."""
    return Message(NFT_MSG_DELTABLE, 0, _text(1, name), "the deletion of the table")


def flush_set(name: str, set_name: str) -> Message:
    """The message that empties a set: NFT_MSG_DELSETELEM that names no element."""
    return Message(NFT_MSG_DELSETELEM, 0, _text(1, name) + _text(2, set_name), f"the flush of the set {set_name}")


def read_counter(name: str, counter: str) -> Message:
    """The question for a named counter; not for a batch. The answer is NFT_MSG_NEWOBJ."""
    body = _text(1, name) + _text(2, counter) + _number(3, _NFT_OBJECT_COUNTER)
    return Message(NFT_MSG_GETOBJ, 0, body, f"the value of the counter {counter}")


def batch(messages: Sequence[Message], sequence: int) -> bytes:
    """One transaction. The beginning has the number `sequence`, the messages those after it; the last is acknowledged.

    Kernels before 6.10 acknowledge neither the beginning nor the end (nfnetlink_rcv_batch() in nfnetlink.c).
    """
    last = len(messages)
    parts = [_head(NFNL_MSG_BATCH_BEGIN, 0, sequence, 0, _NFPROTO_UNSPEC, _BIG)]
    for number, each in enumerate(messages, 1):
        parts.append(frame(each, sequence + number, NLM_F_ACK if number == last else 0))
    parts.append(_head(NFNL_MSG_BATCH_END, 0, sequence + last + 1, 0, _NFPROTO_UNSPEC, _BIG))
    return b"".join(parts)


def frame(message: Message, sequence: int, flags: int = 0) -> bytes:
    """One message with its headers."""
    kind = NFNL_SUBSYS_NFTABLES << 8 | message.kind
    return _head(kind, message.flags | flags, sequence, len(message.body), _NFPROTO_INET, 0) + message.body


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each attribute, in order."""
    for _, kind, content in attributes_at(data):
        yield kind, content


def attributes_at(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Offset, type and content of each attribute, in order."""
    at = 0
    while at + 4 <= len(data):
        length, kind = ATTRIBUTE_HEAD.unpack_from(data, at)
        if not 4 <= length <= len(data) - at:
            raise ValueError(f"an attribute of {length} bytes with {len(data) - at} left")
        yield at, kind & ~NLA_F_NESTED, data[at + 4 : at + length]
        at += length + (-length & 3)


def _head(kind: int, flags: int, sequence: int, length: int, family: int, resource: int) -> bytes:
    size = MESSAGE_HEAD.size + length
    return MESSAGE_HEAD.pack(size, kind, NLM_F_REQUEST | flags, sequence & 0xFFFFFFFF, 0, family, 0, resource)


def _attribute(kind: int, content: bytes) -> bytes:
    length = len(content)
    return ATTRIBUTE_HEAD.pack(length + 4, kind) + content + _PADDING[-length & 3]


def _nest(kind: int, content: bytes) -> bytes:
    return ATTRIBUTE_HEAD.pack(len(content) + 4, kind | NLA_F_NESTED) + content


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return ATTRIBUTE_HEAD.pack(8, kind) + (number & 0xFFFFFFFF).to_bytes(4, "big")


def _value(kind: int, value: bytes) -> bytes:
    return _nest(kind, _attribute(1, value))  # NFTA_DATA_VALUE


def _set(table: bytes, each: TimedSet, number: int) -> Iterator[Message]:
    """NFTA_SET_* and NFTA_SET_ELEM_*; `number` tells the sets of one transaction apart."""
    body = table + _text(2, each.name) + _number(3, _NFT_SET_TIMEOUT) + _number(4, _INET_PROTOCOL) + _number(5, 1)
    yield Message(NFT_MSG_NEWSET, NLM_F_CREATE, body + _number(10, number), f"the set {each.name}, with timeouts")
    if each.elements:
        listed = [
            _nest(1, _value(1, one.key) + _attribute(4, struct.pack("!Q", round(one.timeout_seconds * 1000))))
            for one in each.elements
        ]
        body = table + _text(2, each.name) + _nest(3, b"".join(listed))
        yield Message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, f"the elements of the set {each.name}")


def _chain(table: bytes, chain: BaseChain, packed: _Packed) -> Iterator[Message]:
    """NFTA_CHAIN_*, then NFTA_RULE_* for each rule."""
    hook = _nest(4, _number(1, chain.hook) + _number(2, chain.priority))
    body = table + _text(3, chain.name) + hook + _number(5, Verdict.ACCEPT) + _text(7, "filter")
    yield Message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, body, f"the chain {chain.name}")
    where = table + _text(2, chain.name)
    for number, rule in enumerate(chain.rules, 1):
        what = f"rule {number} of the chain {chain.name}"
        yield Message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, where + packed.rule(rule), what)


class _Packed:
    """Rules and expressions as bytes, each packed once: chains share rules, and rules share expressions.

    They are told apart by identity, which is ten times cheaper than a hash of all that is in them; the ruleset keeps
    them alive meanwhile.
    """

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}

    def rule(self, rule: Rule) -> bytes:
        known = self._known
        found = known.get(id(rule))
        if found is None:
            parts = []
            for each in rule:
                part = known.get(id(each))
                if part is None:
                    part = known[id(each)] = _expression(each)
                parts.append(part)
            found = known[id(rule)] = _nest(4, b"".join(parts))
        return found


def _expression(each: Expression) -> bytes:
    if type(each) is Compare:  # most of them; all of one length are alike up to the value at their end
        length = len(each.value)
        return _compare_head(each.relation, length) + each.value + _PADDING[-length & 3]
    return _other_expression(each)


@functools.cache
def _compare_head(relation: Relation, length: int) -> bytes:
    return _other_expression(Compare(relation, bytes(length)))[: -(length + (-length & 3))]


@functools.lru_cache(1024)
def _other_expression(each: Expression) -> bytes:
    name, data = _ENCODERS[type(each)](each)
    return _nest(1, _text(1, name) + _nest(2, data))


_SOURCE = _number(1, _NFT_REG_1)  # NFTA_CMP_SREG, and the same number in the others
_SOURCE_AND_DESTINATION = _SOURCE + _number(2, _NFT_REG_1)

_ENCODERS: dict[type, Callable[[Any], tuple[str, bytes]]] = {
    Meta: lambda e: ("meta", _number(1, _NFT_REG_1) + _number(2, e.key)),
    Ct: lambda e: ("ct", _number(1, _NFT_REG_1) + _number(2, e.key)),
    Payload: lambda e: ("payload", _SOURCE + _number(2, e.base) + _number(3, e.offset) + _number(4, e.length)),
    Bitwise: lambda e: (
        "bitwise",
        _SOURCE_AND_DESTINATION + _number(3, len(e.mask)) + _value(4, e.mask) + _value(5, e.xor),
    ),
    Compare: lambda e: ("cmp", _SOURCE + _number(2, e.relation) + _value(3, e.value)),
    Range: lambda e: ("range", _SOURCE + _number(2, e.relation) + _value(3, e.low) + _value(4, e.high)),
    Lookup: lambda e: ("lookup", _text(1, e.set_name) + _number(2, _NFT_REG_1)),
    Counter: lambda e: ("counter", b""),
    CountIn: lambda e: ("objref", _number(1, _NFT_OBJECT_COUNTER) + _text(2, e.counter)),
    Verdict: lambda e: ("immediate", _number(1, 0) + _nest(2, _nest(2, _number(1, e)))),  # register 0: the verdict's
}
