"""A table of nfkeep's own that stays: what is in it now, and the messages that add to it and take from it.

Rules carry comments, and are known again by them, also after `nft list ruleset` was saved and loaded. Nothing here
flushes what it did not make. Numbers: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping

import attrs

from nfkeep.model import Hook
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.encode import rule_expressions
from nfkeep.nft.messages import (
    NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWTABLE,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
)
from nfkeep.nft.ruleset import Rule, Verdict
from nfkeep.nft.wire import attribute, attributes, nest, string, u32

TABLE = "nfkeep"
"""The table `inet` of ban lists."""

_INET = 1
_NFT_MSG_DELCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_DELRULE = 5, 7, 8
NFT_MSG_GETSET, _NFT_MSG_DELSET = 10, 11
_NFTA_SET_COUNT = 20
_NFT_SET_TIMEOUT = 0x10
_IPV4_ADDR, _IPV6_ADDR = 7, 8  # the nft command's numbers of the types, which the kernel only keeps
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT and its like for sets and chains
LONGEST_COMMENT = 127


@attrs.frozen(slots=True)
class SeenRule:
    """A rule that is there, by its handle and its comment ("" without one)."""

    handle: int
    comment: str


@attrs.frozen(slots=True)
class SeenSet:
    """A set that is there: how many elements it can take (0: no limit), and how many it has.

    `used` is None on kernels before 6.16, which do not tell; `told` is all that the kernel says.
    """

    size: int
    used: int | None
    told: Mapping[int, bytes] = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Contents:
    """What is in the table: comments of chains, rules of chains in order, sets; all by name."""

    chains: Mapping[str, str]
    rules: Mapping[str, tuple[SeenRule, ...]]
    sets: Mapping[str, SeenSet]

    def comments(self, chain: str) -> tuple[str, ...]:
        """The comments of a chain's rules, in order."""
        return tuple(rule.comment for rule in self.rules.get(chain, ()))


def contents(asking: BatchSocket, table: str) -> Contents:
    """What is in the table `inet` of this name; nothing if there is none."""
    of_table = string(1, table)
    chains = {
        _string(told[3]): _comment(told.get(12, b""))  # NFTA_CHAIN_NAME, _USERDATA
        for told in _listed(asking, NFT_MSG_GETCHAIN, b"", table)
    }
    rules: dict[str, list[SeenRule]] = {name: [] for name in chains}
    for told in _listed(asking, _NFT_MSG_GETRULE, of_table, table):
        (handle,) = struct.unpack("!Q", told[3])  # NFTA_RULE_HANDLE
        rules.setdefault(_string(told[2]), []).append(SeenRule(handle, _comment(told.get(7, b""))))
    listed = _listed(asking, NFT_MSG_GETSET, of_table, table) if chains else ()
    sets = {_string(told[2]): _seen_set(told) for told in listed}
    return Contents(chains, {name: tuple(listed) for name, listed in rules.items()}, sets)


def read_set(asking: BatchSocket, table: str, name: str) -> SeenSet | None:
    """One set of the table, found by its name; None if there is none."""
    question = Message(NFT_MSG_GETSET, 0, string(1, table) + string(2, name), f"the set {name}")
    refusal, answers = asking.try_ask([question])
    if refusal is not None and refusal.errno == errno.ENOENT:
        return None
    if refusal is not None:
        raise refusal.error()
    return _seen_set(dict(attributes(answers[0])))


def new_table(table: str, comment: str) -> Message:
    """Make the table unless it is there."""
    body = string(1, table) + attribute(6, _userdata(comment))
    return Message(NFT_MSG_NEWTABLE, NLM_F_CREATE, body, f"the table {table}")


def delete_table(table: str) -> Message:
    """Delete the table with all that is in it."""
    return Message(NFT_MSG_DELTABLE, 0, string(1, table), f"the deletion of the table {table}")


def new_base_chain(table: str, chain: str, hook: Hook, priority: int) -> Message:
    """Make a base chain of type filter, policy accept, unless it is there."""
    where = nest(4, u32(1, hook) + u32(2, priority))
    body = string(1, table) + string(3, chain) + where + u32(5, Verdict.ACCEPT) + string(7, "filter")
    return Message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, body, f"the chain {chain}")


def new_chain(table: str, chain: str, comment: str = "", *, exclusive: bool = False) -> Message:
    """Make a chain for jumps; if it is there, that is an error (EEXIST) where `exclusive`."""
    body = string(1, table) + string(3, chain) + (attribute(12, _userdata(comment)) if comment else b"")
    return Message(NFT_MSG_NEWCHAIN, NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0), body, f"the chain {chain}")


def delete_chain(table: str, chain: str) -> Message:
    """Delete a chain, which must be empty and unused by then."""
    return Message(_NFT_MSG_DELCHAIN, 0, string(1, table) + string(3, chain), f"the deletion of the chain {chain}")


def new_rule(table: str, chain: str, rule: Rule, comment: str) -> Message:
    """Append a rule."""
    where = string(1, table) + string(2, chain)
    body = where + rule_expressions(rule) + attribute(7, _userdata(comment))
    return Message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body, f"the rule {comment} of the chain {chain}")


def delete_rules(table: str, chain: str, handle: int | None = None) -> Message:
    """Delete one rule of a chain, or all of them."""
    body = string(1, table) + string(2, chain)
    if handle is not None:
        body += attribute(3, struct.pack("!Q", handle))
    return Message(_NFT_MSG_DELRULE, 0, body, f"the deletion of rules of the chain {chain}")


def new_address_set(table: str, name: str, length: int, size: int, number: int, *, exclusive: bool = False) -> Message:
    """Make a hash set of addresses with timeouts; if it is there, that is an error (EEXIST) where `exclusive`.

    `length`: of an address, 4 or 16 bytes. `size`: the most elements. `number` tells the sets of a transaction apart.
    """
    kind = _IPV4_ADDR if length == 4 else _IPV6_ADDR
    body = string(1, table) + string(2, name) + u32(3, _NFT_SET_TIMEOUT) + u32(4, kind) + u32(5, length)
    body += u32(10, number) + nest(9, u32(1, size))
    return Message(NFT_MSG_NEWSET, NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0), body, f"the set {name}")


def resize_set(table: str, name: str, seen: SeenSet, size: int) -> Message:
    """Let a set take more elements: NFT_MSG_NEWSET of one that is there.

    Kernels before 6.5 or so take the message and change nothing (nf_tables_newset()): read the size again.
    """
    same = b"".join(attribute(kind, seen.told[kind]) for kind in (3, 4, 5) if kind in seen.told)
    body = string(1, table) + string(2, name) + same + u32(10, 1) + nest(9, u32(1, size))
    return Message(NFT_MSG_NEWSET, NLM_F_CREATE, body, f"the size of the set {name}")


def delete_set(table: str, name: str) -> Message:
    """Delete a set, which no rule must use by then."""
    return Message(_NFT_MSG_DELSET, 0, string(1, table) + string(2, name), f"the deletion of the set {name}")


def _listed(asking: BatchSocket, kind: int, body: bytes, table: str) -> Iterator[dict[int, bytes]]:
    for family, data in asking.dump(kind, body, _INET):
        told = dict(attributes(data))
        if family == _INET and _string(told[1]) == table:
            yield told


def _seen_set(told: dict[int, bytes]) -> SeenSet:
    size = dict(attributes(told.get(9, b""))).get(1, b"")  # NFTA_SET_DESC, NFTA_SET_DESC_SIZE
    used = told.get(_NFTA_SET_COUNT)
    return SeenSet(int.from_bytes(size, "big"), None if used is None else int.from_bytes(used, "big"), told)


def _userdata(comment: str) -> bytes:
    """A comment as the nft command writes it: type, length and text, each rule's, set's and chain's alike."""
    text = comment.encode() + b"\0"
    if len(text) > LONGEST_COMMENT + 1:
        raise ValueError(f"a comment of {len(text) - 1} bytes, more than {LONGEST_COMMENT}")
    return bytes([_COMMENT, len(text)]) + text


def _comment(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return userdata[at + 2 : at + 2 + length].rstrip(b"\0").decode(errors="replace")
        at += 2 + length
    return ""


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
