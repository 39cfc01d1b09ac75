"""Counters of rules that somebody else has made: read by the thousand, and set by putting the same rule in its place.

nft has no command that adds to a rule's counter. What the kernel lists of a rule (nf_tables_fill_rule_info()) it also
takes as a rule, with three exceptions. A nameless set belongs to one rule only. Of what writes TCP options it lists
flags, and refuses to be told any (nft_exthdr_tcp_set_init()). Of what adds to a set without timeouts it lists a timeout
of 0, and refuses that (nft_dynset_init()).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.model import Counters
from nfkeep.nft.encode import NFT_MSG_NEWRULE, Message
from nfkeep.nft.wire import attribute, attributes, attributes_at, nest, string

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.nft.batch import BatchSocket

_NFT_MSG_GETRULE = 7
_NLM_F_REPLACE = 0x100
_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS, _USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_INTO = 1  # NFTA_EXTHDR_DREG
_TIMEOUT = 6  # NFTA_DYNSET_TIMEOUT
_NAMELESS = (b"__set", b"__map")
_COUNTING = frozenset({b"counter\0", b"quota\0", b"last\0"})

_COUNTED = struct.Struct("=8s4s8s")
_SECOND = struct.pack("=HH", 12, _PACKETS)
_COUNTER = struct.pack("=HHHH8sHHHH", 44, 1, 12, _NAME, b"counter", 28, _DATA, 12, _BYTES)
"""How the kernel begins a counter in a list of expressions (nft_counter_do_dump()); one that it writes otherwise is
looked for attribute by attribute."""


@attrs.frozen(slots=True)
class SeenRule:
    """A rule as the kernel lists it. `counters` are those of its first counter; None if it has none."""

    family: int
    table: str
    chain: str
    handle: int
    counters: Counters | None
    _at: int
    _expressions: bytes
    _userdata: bytes | None

    @property
    def settable(self) -> bool:
        """Whether `counting` can put it in its own place."""
        if self.counters is None or any(name in self._expressions for name in _NAMELESS):
            return False
        return not _refused(self._expressions)

    def counting(self, counters: Counters) -> Message:
        """The message that puts the same rule, with these counters, in its place."""
        old, at = self._expressions, self._at
        length = _attribute_length(old, at)
        counter = string(_NAME, "counter") + nest(
            _DATA, attribute(_BYTES, _u64(counters.bytes)) + attribute(_PACKETS, _u64(counters.packets))
        )
        body = string(_TABLE, self.table) + string(_CHAIN, self.chain) + attribute(_HANDLE, _u64(self.handle))
        body += nest(_EXPRESSIONS, old[:at] + nest(1, counter) + old[at + length :])
        if self._userdata is not None:
            body += attribute(_USERDATA, self._userdata)
        what = f"the counter of rule {self.handle} of the chain {self.chain}"
        return Message(NFT_MSG_NEWRULE, _NLM_F_REPLACE, body, what, self.family)

    def meaning(self) -> bytes:
        """What it does, whatever it has counted, and its comment: another one that does the same has the same.

        Nameless sets have another name in each rule; what is in them is not looked at.
        """
        parts = []
        for _, expression in attributes(self._expressions):
            told = dict(attributes(expression))
            parts.append(told[_NAME])
            if told[_NAME] not in _COUNTING:
                values = attributes(told.get(_DATA, b""))
                parts += [b"" if value.startswith(_NAMELESS) else value for _, value in values]
        return b"".join(b"%d:%s" % (len(each), each) for each in [*parts, self._userdata or b""])


def list_rules(opened: BatchSocket, family: int, table: str, chain: str = "") -> list[bytes]:
    """All rules of a chain, or of a table in the order of its chains, as the kernel lists them.

    What is in them `seen` finds out, which takes its time.
    """
    where = string(_TABLE, table) + (string(_CHAIN, chain) if chain else b"")
    return [data for _, data in opened.dump(_NFT_MSG_GETRULE, where, family)]


def read_again(opened: BatchSocket, rules: Sequence[SeenRule]) -> list[SeenRule]:
    """The same rules as they are now. Raises as `BatchSocket.ask` does."""
    questions = [
        Message(
            _NFT_MSG_GETRULE,
            0,
            string(_TABLE, rule.table) + string(_CHAIN, rule.chain) + attribute(_HANDLE, _u64(rule.handle)),
            f"rule {rule.handle} of the chain {rule.chain}",
            rule.family,
        )
        for rule in rules
    ]
    return [_seen(rule.family, data) for rule, data in zip(rules, opened.ask(questions), strict=True)]


def seen(family: int, listed: Sequence[bytes]) -> list[SeenRule]:
    """What the kernel lists, understood."""
    return [_seen(family, data) for data in listed]


def _seen(family: int, data: bytes) -> SeenRule:
    told = dict(attributes(data))
    expressions = told.get(_EXPRESSIONS, b"")
    at, counters = _counter(expressions)
    return SeenRule(
        family,
        _text(told[_TABLE]),
        _text(told[_CHAIN]),
        int.from_bytes(told[_HANDLE], "big"),
        counters,
        at,
        expressions,
        told.get(_USERDATA),
    )


def _counter(expressions: bytes) -> tuple[int, Counters | None]:
    at = expressions.find(_COUNTER)
    if at >= 0:
        octets, second, packets = _COUNTED.unpack_from(expressions, at + len(_COUNTER))
        if second == _SECOND:
            return at, Counters(int.from_bytes(packets, "big"), int.from_bytes(octets, "big"))
    if b"counter\0" not in expressions:
        return 0, None
    for at, _, expression in attributes_at(expressions):
        told = dict(attributes(expression))
        if told[_NAME] == b"counter\0":
            counted = dict(attributes(told[_DATA]))
            return at, Counters(int.from_bytes(counted[_PACKETS], "big"), int.from_bytes(counted[_BYTES], "big"))
    return 0, None


def _refused(expressions: bytes) -> bool:
    if b"exthdr\0" not in expressions and b"dynset\0" not in expressions:
        return False
    for _, _, expression in attributes_at(expressions):
        told = dict(attributes(expression))
        name, data = told[_NAME], dict(attributes(told.get(_DATA, b"")))
        if (name == b"exthdr\0" and _INTO not in data) or (name == b"dynset\0" and not any(data.get(_TIMEOUT, b""))):
            return True
    return False


def _attribute_length(data: bytes, at: int) -> int:
    (length,) = struct.unpack_from("=H", data, at)
    return int(length + (-length & 3))


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
