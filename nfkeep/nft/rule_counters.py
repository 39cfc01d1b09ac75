"""Counters of rules that somebody else has made: read by the thousand, and set by putting the same rule in its place.

nft has no command that adds to a rule's counter. What the kernel lists of a rule (nf_tables_fill_rule_info()) it also
takes as a rule, with three exceptions. A nameless set belongs to one rule only. Of what writes TCP options it lists
flags, and refuses to be told any (nft_exthdr_tcp_set_init()). Of what adds to a set without timeouts it lists a timeout
of 0, and refuses that (nft_dynset_init()).
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

from nfkeep.model import Counters
from nfkeep.nft import _ffi
from nfkeep.nft.messages import NFT_MSG_NEWRULE, Message
from nfkeep.nft.wire import attribute, attributes, attributes_at, nest, string
from nfkeep.plenty import plenty

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


@plenty(slots=True)
class SeenRule:
    """A rule as the kernel lists it. `counters` are those of its first counter; None if it has none.

    `meaning`: what it does, whatever it has counted, and its comment: another one that does the same has the same.
    Nameless sets have another name in each rule; what is in them is not looked at.
    """

    family: int
    table: str
    chain: str
    handle: int
    counters: Counters | None
    meaning: bytes
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
    answers = opened.ask(questions)
    return seen(rules[0].family, answers) if rules else []


def seen(family: int, listed: Sequence[bytes]) -> list[SeenRule]:
    """What the kernel lists of rules of one family, understood. Raises NfkeepError for what is no rule."""
    data, meanings, rows = _ffi.rules(listed)
    text = functools.cache(_text)
    found = []
    for (
        handle, packets, octets, table, table_length, chain, chain_length, at, length, userdata, userdata_length,
        counter, counted, meaning, meaning_length,
    ) in rows:  # fmt: skip
        found.append(
            SeenRule(
                family,
                text(data[table : table + table_length]),
                text(data[chain : chain + chain_length]),
                handle,
                Counters(packets, octets) if counted else None,
                meanings[meaning : meaning + meaning_length],
                counter,
                data[at : at + length],
                data[userdata : userdata + userdata_length] if userdata else None,
            )
        )
    return found


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
    return value.decode(errors="surrogateescape")
