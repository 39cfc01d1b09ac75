"""A ruleset as nfnetlink messages. Pure packing, no I/O.

linux/netfilter/nf_tables.h names the numbers; what nf_tables puts into attributes is big-endian.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any

from nfkeep.nft.messages import (
    NFT_MSG_DELSETELEM,
    NFT_MSG_DELTABLE,
    NFT_MSG_GETOBJ,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWOBJ,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
)
from nfkeep.nft.ruleset import (
    AskLimit,
    BaseChain,
    Bitwise,
    Compare,
    Counter,
    CountIn,
    Ct,
    Expression,
    Jump,
    Key,
    Limit,
    Lookup,
    Meta,
    Payload,
    Range,
    Reject,
    Relation,
    Rule,
    Ruleset,
    TimedSet,
    Verdict,
)
from nfkeep.nft.wire import (
    PADDING,
    attribute,
    data_value,
    nest,
    string,
    u32,
)

_NFT_TABLE_F_OWNER = 0x2
_NFT_SET_TIMEOUT = 0x10
_NFT_OBJECT_COUNTER = 1
_NFT_REG_1 = 1
_NFT_DYNSET_OP_ADD = 0
_NFT_JUMP, _NFT_GOTO = -3, -4
_INET_PROTOCOL = 12  # the nft command's own number for the type, which the kernel only keeps: TYPE_INET_PROTOCOL


def make_table(name: str, ruleset: Ruleset) -> list[Message]:
    """The messages that make the table, owned by the socket that sends them. A name that is taken is an error."""
    table = string(1, name)
    flags = string(1, name) + u32(2, _NFT_TABLE_F_OWNER)
    messages = [Message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, flags, "the table, with flags owner")]
    for number, each in enumerate(ruleset.sets):
        messages += _set(table, each, number + 1)
    for counter in ruleset.counters:
        body = table + string(2, counter) + u32(3, _NFT_OBJECT_COUNTER) + nest(4, b"")
        messages.append(Message(NFT_MSG_NEWOBJ, NLM_F_CREATE, body, f"the counter {counter}"))
    packed = _Packed()
    for chain in ruleset.chains:
        messages += _chain(table, chain, packed)
    return messages


def delete_table(name: str) -> Message:
    """The message that deletes the table with all that is in it."""
    return Message(NFT_MSG_DELTABLE, 0, string(1, name), "the deletion of the table")


def fill_set(name: str, each: TimedSet) -> Message:
    """The message that puts its elements into a set that is there; their time begins now."""
    return _elements(string(1, name), each)


def flush_set(name: str, set_name: str) -> Message:
    """The message that empties a set: NFT_MSG_DELSETELEM that names no element."""
    return Message(NFT_MSG_DELSETELEM, 0, string(1, name) + string(2, set_name), f"the flush of the set {set_name}")


def read_counter(name: str, counter: str) -> Message:
    """The question for a named counter; not for a batch. The answer is NFT_MSG_NEWOBJ."""
    body = string(1, name) + string(2, counter) + u32(3, _NFT_OBJECT_COUNTER)
    return Message(NFT_MSG_GETOBJ, 0, body, f"the value of the counter {counter}")


def rule_expressions(rule: Rule) -> bytes:
    """NFTA_RULE_EXPRESSIONS of one rule."""
    return nest(4, b"".join([_expression(each) for each in rule]))


def limit_expression(kind: int, limit: Limit) -> bytes:
    """A limit as NFTA_SET_ELEM_EXPR, NFTA_DYNSET_EXPR and the like, by the number of the attribute."""
    numbers = attribute(1, struct.pack("!Q", limit.rate)) + attribute(2, struct.pack("!Q", limit.unit_seconds))
    return nest(
        kind,
        string(1, "limit")
        + nest(2, numbers + u32(3, limit.burst) + u32(4, int(limit.in_bytes)) + u32(5, int(limit.over))),
    )


def _set(table: bytes, each: TimedSet, number: int) -> Iterator[Message]:
    """NFTA_SET_* and NFTA_SET_ELEM_*; `number` tells the sets of one transaction apart."""
    body = table + string(2, each.name) + u32(3, _NFT_SET_TIMEOUT) + u32(4, _INET_PROTOCOL) + u32(5, 1)
    yield Message(NFT_MSG_NEWSET, NLM_F_CREATE, body + u32(10, number), f"the set {each.name}, with timeouts")
    if each.elements:
        yield _elements(table, each)


def _elements(table: bytes, each: TimedSet) -> Message:
    listed = [
        nest(1, data_value(1, one.key) + attribute(4, struct.pack("!Q", round(one.timeout_seconds * 1000))))
        for one in each.elements
    ]
    body = table + string(2, each.name) + nest(3, b"".join(listed))
    return Message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, f"the elements of the set {each.name}")


def _chain(table: bytes, chain: BaseChain, packed: _Packed) -> Iterator[Message]:
    """NFTA_CHAIN_*, then NFTA_RULE_* for each rule."""
    hook = nest(4, u32(1, chain.hook) + u32(2, chain.priority))
    body = table + string(3, chain.name) + hook + u32(5, Verdict.ACCEPT) + string(7, "filter")
    yield Message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, body, f"the chain {chain.name}")
    where = table + string(2, chain.name)
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
            found = known[id(rule)] = nest(4, b"".join(parts))
        return found


def _expression(each: Expression) -> bytes:
    if type(each) is Compare:  # most of them; all of one length are alike up to the value at their end
        length = len(each.value)
        return _compare_head(each.relation, length) + each.value + PADDING[-length & 3]
    return _other_expression(each)


@functools.cache
def _compare_head(relation: Relation, length: int) -> bytes:
    return _other_expression(Compare(relation, bytes(length)))[: -(length + (-length & 3))]


@functools.lru_cache(1024)
def _other_expression(each: Expression) -> bytes:
    name, data = _ENCODERS[type(each)](each)
    return nest(1, string(1, name) + nest(2, data))


_SOURCE = u32(1, _NFT_REG_1)  # NFTA_CMP_SREG, and the same number in the others
_VERDICT_REGISTER = u32(1, 0)
_SOURCE_AND_DESTINATION = _SOURCE + u32(2, _NFT_REG_1)

_ENCODERS: dict[type, Callable[[Any], tuple[str, bytes]]] = {
    Meta: lambda e: ("meta", u32(1, _NFT_REG_1) + u32(2, e.key)),
    Ct: lambda e: ("ct", u32(1, _NFT_REG_1) + u32(2, e.key) + (attribute(3, b"\0") if e.original else b"")),
    Payload: lambda e: ("payload", _SOURCE + u32(2, e.base) + u32(3, e.offset) + u32(4, e.length)),
    Key: lambda e: ("payload", _SOURCE + u32(2, e.base) + u32(3, e.offset) + u32(4, e.length)),
    AskLimit: lambda e: (
        "dynset",
        string(1, e.set_name) + u32(3, 0) + u32(4, _NFT_REG_1) + limit_expression(7, e.limit),
    ),
    Bitwise: lambda e: (
        "bitwise",
        _SOURCE_AND_DESTINATION + u32(3, len(e.mask)) + data_value(4, e.mask) + data_value(5, e.xor),
    ),
    Compare: lambda e: ("cmp", _SOURCE + u32(2, e.relation) + data_value(3, e.value)),
    Range: lambda e: ("range", _SOURCE + u32(2, e.relation) + data_value(3, e.low) + data_value(4, e.high)),
    Lookup: lambda e: ("lookup", string(1, e.set_name) + u32(2, _NFT_REG_1)),
    Counter: lambda e: ("counter", b""),
    CountIn: lambda e: ("objref", u32(1, _NFT_OBJECT_COUNTER) + string(2, e.counter)),
    Verdict: lambda e: ("immediate", _VERDICT_REGISTER + nest(2, nest(2, u32(1, e)))),
    Jump: lambda e: (
        "immediate",
        _VERDICT_REGISTER + nest(2, nest(2, u32(1, _NFT_GOTO if e.goto else _NFT_JUMP) + string(2, e.chain))),
    ),
    Reject: lambda e: ("reject", u32(1, e.type) + attribute(2, bytes([e.code]))),
}
