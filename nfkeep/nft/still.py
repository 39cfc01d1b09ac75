"""Tables that stand still: what they have counted and collected stays to be read, and no packet meets them any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.nft.encode import NFT_MSG_DELTABLE, NFT_MSG_GETOBJ, NFT_MSG_NEWTABLE, Message
from nfkeep.nft.wire import attributes, string, u32

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.nft.batch import BatchSocket

_NFT_MSG_GETTABLE, _NFT_MSG_GETSETELEM = 1, 13
_NAME, _FLAGS, _HANDLE = 1, 2, 4  # NFTA_TABLE_*
_DORMANT = 0x1  # NFT_TABLE_F_DORMANT
_OBJECT_DATA = 4  # NFTA_OBJ_DATA
_QUOTA = 2  # NFT_OBJECT_QUOTA
_QUOTA_BYTES, _QUOTA_CONSUMED = 1, 4  # NFTA_QUOTA_*
_SET_TABLE, _SET_NAME, _SET_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_KEY, _ELEMENT_FLAGS, _TIMEOUT, _EXPIRATION = 1, 3, 4, 5  # NFTA_SET_ELEM_*


@attrs.frozen(slots=True)
class SeenTable:
    """A table. `handle`: no other table has or gets it until the next boot. `dormant`: no packet meets its chains."""

    family: int
    name: str
    handle: int
    dormant: bool


@attrs.frozen(slots=True)
class SeenElement:
    """An element: its key as the kernel has it, and times in seconds.

    `timeout`: how long it was given, None for as long as the set gives; `left`: what is left of that, None: for ever.
    """

    key: bytes
    timeout: float | None
    left: float | None


def tables(opened: BatchSocket) -> list[SeenTable]:
    """All tables, of all families."""
    found = []
    for family, data in opened.dump(_NFT_MSG_GETTABLE):
        told = dict(attributes(data))
        name = told[_NAME].rstrip(b"\0").decode(errors="surrogateescape")
        found.append(SeenTable(family, name, _number(told[_HANDLE]), bool(_number(told[_FLAGS]) & _DORMANT)))
    return found


def stand_still(opened: BatchSocket, those: Sequence[SeenTable]) -> None:
    """Take tables from the packets' way, with all that is in them, in one transaction. Raises as `BatchSocket.run`."""
    # Their hooks are taken off when the transaction is in force (nf_tables_commit()); in use a chain is until then.
    opened.run(
        [
            Message(NFT_MSG_NEWTABLE, 0, string(_NAME, each.name) + u32(_FLAGS, _DORMANT), each.name, each.family)
            for each in those
        ]
    )


def delete(opened: BatchSocket, those: Sequence[SeenTable]) -> None:
    """Delete tables with all that is in them, in one transaction. Raises as `BatchSocket.run`."""
    opened.run([Message(NFT_MSG_DELTABLE, 0, string(_NAME, each.name), each.name, each.family) for each in those])


def read_quotas(opened: BatchSocket, family: int, names: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Of each quota, by table and name: of how many bytes it is, and how many are used up. Raises as `ask`."""
    questions = [
        Message(NFT_MSG_GETOBJ, 0, string(1, table) + string(2, name) + u32(3, _QUOTA), f"the quota {name}", family)
        for table, name in names
    ]
    found = []
    for answer in opened.ask(questions) if questions else ():
        told = dict(attributes(dict(attributes(answer))[_OBJECT_DATA]))
        found.append((_number(told[_QUOTA_BYTES]), _number(told[_QUOTA_CONSUMED])))
    return found


def read_elements(opened: BatchSocket, family: int, table: str, name: str) -> Iterator[SeenElement]:
    """What a set holds. Raises as `BatchSocket.dump`: UnsupportedError without the set."""
    body = string(_SET_TABLE, table) + string(_SET_NAME, name)
    for _, data in opened.dump(_NFT_MSG_GETSETELEM, body, family):
        for _, each in attributes(dict(attributes(data)).get(_SET_ELEMENTS, b"")):
            told = dict(attributes(each))
            if _KEY in told and not _number(told.get(_ELEMENT_FLAGS, b"")):  # ends of intervals, and what has no key
                key = dict(attributes(told[_KEY]))[1]
                yield SeenElement(key, _seconds(told.get(_TIMEOUT)), _seconds(told.get(_EXPIRATION)))


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _seconds(value: bytes | None) -> float | None:
    return None if value is None else _number(value) / 1000
