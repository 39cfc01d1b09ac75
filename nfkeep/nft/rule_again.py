"""Rules that somebody else has made, put in their own places with other counters: nft has no command that adds to one.

What the kernel lists of a rule (nf_tables_fill_rule_info()) it also takes as a rule, with three exceptions. A nameless
set belongs to one rule only: another one with the same elements is made. Of what writes TCP options it lists flags, and
refuses to be told any (nft_exthdr_tcp_set_init()). Of what adds to a set without timeouts it lists a timeout of 0, and
refuses that (nft_dynset_init()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.nft.messages import NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NLM_F_CREATE, Message
from nfkeep.nft.wire import ATTRIBUTE_HEAD, attribute, attributes, attributes_at, nest, string, u32, u64
from nfkeep.plenty import plenty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.model import Counters
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.rule_counters import SeenRule

_NFT_MSG_GETSET, _NFT_MSG_GETSETELEM = 10, 13
_NLM_F_REPLACE = 0x100
_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS, _USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_INTO, _EXTHDR_FLAGS = 1, 5  # NFTA_EXTHDR_DREG, _FLAGS
_TIMEOUT = 6  # NFTA_DYNSET_TIMEOUT
_SET, _SET_ID = 1, 4  # NFTA_LOOKUP_*
_SET_TABLE, _SET_NAME, _ID_OF_SET = 1, 2, 10  # NFTA_SET_*
_KEPT_OF_SET = (3, 4, 5, 6, 7, 8, 9, 13)  # flags, key, data, policy, description, userdata
_ELEMENTS, _ID_OF_ELEMENTS = 3, 4  # NFTA_SET_ELEM_LIST_*
_KEY, _FLAGS = 1, 3  # NFTA_SET_ELEM_*
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END
_AT_ONCE = 500  # the length of what is nested has 16 bits
_SPECIAL = (b"__set", b"__map", b"exthdr\0", b"dynset\0")


@plenty(slots=True)
class Again:
    """A rule that can take its own place, any number of times: `messages` has those that do it, for one transaction.

    `forgets`: it has a limit of its own, which is full again then.
    """

    rule: SeenRule
    forgets: bool
    _sets: tuple[Message, ...]
    _before: bytes
    _behind: bytes

    def messages(self, counters: Counters) -> list[Message]:
        """The rule with these counters."""
        figures = u64(_BYTES, counters.bytes) + u64(_PACKETS, counters.packets)
        counter = string(_NAME, "counter") + nest(_DATA, figures)
        body = nest(_EXPRESSIONS, self._before + nest(1, counter) + self._behind)
        if self.rule.userdata is not None:
            body += attribute(_USERDATA, self.rule.userdata)
        return [*self._sets, self._in_place(body)]

    def bare(self) -> Message:
        """A rule in that place that does nothing, to go before the end of the same transaction."""
        return self._in_place(b"")

    def _in_place(self, body: bytes) -> Message:
        rule = self.rule
        place = string(_TABLE, rule.table) + string(_CHAIN, rule.chain) + u64(_HANDLE, rule.handle)
        what = f"the counter of rule {rule.handle} of the chain {rule.chain}"
        return Message(NFT_MSG_NEWRULE, _NLM_F_REPLACE, place + body, what, rule.family)


def again(opened: BatchSocket, rule: SeenRule, numbers: Iterator[int]) -> Again:
    """Prepare a rule that has a counter for that; `numbers` are those of nameless sets, none twice in a transaction.

    Raises as `BatchSocket.ask` does, if such a set cannot be read.
    """
    old, at = rule.expressions, rule.counter_at
    forgets = b"limit\0" in old and any(dict(attributes(each))[_NAME] == b"limit\0" for _, each in attributes(old))
    if not any(each in old for each in _SPECIAL):
        return Again(rule, forgets, (), old[:at], old[at + _length(old, at) :])
    sets: list[Message] = []
    before, behind = bytearray(), bytearray()
    for start, _, expression in attributes_at(old):
        if start != at:
            taken, made = _taken(opened, rule, expression, numbers)
            (behind if start > at else before).extend(nest(1, taken))
            sets += made
    return Again(rule, forgets, tuple(sets), bytes(before), bytes(behind))


def _taken(
    opened: BatchSocket, rule: SeenRule, expression: bytes, numbers: Iterator[int]
) -> tuple[bytes, list[Message]]:
    """An expression as the kernel takes it, and what makes the nameless set that it asks."""
    told = dict(attributes(expression))
    name, data = told[_NAME], dict(attributes(told.get(_DATA, b"")))
    made: list[Message] = []
    if name == b"exthdr\0" and _INTO not in data:
        data.pop(_EXTHDR_FLAGS, None)
    elif name == b"dynset\0" and not any(data.get(_TIMEOUT, b"")):
        data.pop(_TIMEOUT, None)
    elif name == b"lookup\0" and data[_SET].startswith((b"__set", b"__map")):
        number = next(numbers)
        made = _copied(opened, rule, data[_SET], number)
        data[_SET] = _nameless(data[_SET])
        data[_SET_ID] = number.to_bytes(4, "big")
    else:
        return expression, made
    return attribute(_NAME, name) + nest(_DATA, b"".join(attribute(*each) for each in data.items())), made


def _copied(opened: BatchSocket, rule: SeenRule, name: bytes, number: int) -> list[Message]:
    """The messages that make another nameless set with the same elements."""
    table, family = string(_SET_TABLE, rule.table), rule.family
    what = f"a nameless set of rule {rule.handle} of the chain {rule.chain}"
    [answer] = opened.ask([Message(_NFT_MSG_GETSET, 0, table + attribute(_SET_NAME, name), what, family)])
    told = dict(attributes(answer))
    body = table + attribute(_SET_NAME, _nameless(name)) + u32(_ID_OF_SET, number)
    body += b"".join(attribute(kind, told[kind]) for kind in _KEPT_OF_SET if kind in told)
    made = [Message(NFT_MSG_NEWSET, NLM_F_CREATE, body, what, family)]
    elements = [
        element
        for _, listed in opened.dump(_NFT_MSG_GETSETELEM, table + attribute(2, name), family)
        for _, element in attributes(dict(attributes(listed)).get(_ELEMENTS, b""))
    ]
    elements.sort(key=_from_low_to_high)
    for at in range(0, len(elements), _AT_ONCE):
        some = b"".join(nest(1, each) for each in elements[at : at + _AT_ONCE])
        body = table + attribute(2, _nameless(name)) + nest(_ELEMENTS, some) + u32(_ID_OF_ELEMENTS, number)
        made.append(Message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, body, what, family))
    return made


def _from_low_to_high(element: bytes) -> tuple[bytes, bool]:
    """The order in which the nft command sends elements: what ends an interval before what begins one there."""
    told = dict(attributes(element))
    return told.get(_KEY, b""), not int.from_bytes(told.get(_FLAGS, b""), "big") & _INTERVAL_END


def _nameless(name: bytes) -> bytes:
    """What asks the kernel for the next name."""
    return name[:5] + b"%d\0"


def _length(data: bytes, at: int) -> int:
    length, _ = ATTRIBUTE_HEAD.unpack_from(data, at)
    return int(length + (-length & 3))
