"""Rules that somebody else has made, with their counters: read by the thousand."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nfkeep.model import Counters
from nfkeep.nft import _ffi
from nfkeep.nft.messages import Message
from nfkeep.nft.wire import string, u64
from nfkeep.plenty import plenty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.nft.batch import BatchSocket

_NFT_MSG_GETRULE = 7
_TABLE, _CHAIN, _HANDLE = 1, 2, 3  # NFTA_RULE_*


@plenty(slots=True)
class SeenRule:
    """A rule as the kernel lists it. `counters` are those of its first counter; None if it has none.

    `meaning`: what it does, whatever it has counted, and its comment: another one that does the same has the same.
    Nameless sets have another name in each rule; what is in them is not looked at. `expressions`: as attributes; the
    first counter begins at `counter_at`, if there is one.
    """

    family: int
    table: str
    chain: str
    handle: int
    counters: Counters | None
    meaning: bytes
    counter_at: int
    expressions: bytes
    userdata: bytes | None


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
            string(_TABLE, rule.table) + string(_CHAIN, rule.chain) + u64(_HANDLE, rule.handle),
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


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
