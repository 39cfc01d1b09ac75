"""The named things of nft's tables, whoever has made them: chains, sets, objects, flowtables. Read from the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.nft.messages import NFT_MSG_GETCHAIN, NFT_MSG_GETOBJ
from nfkeep.nft.wire import attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.nft.batch import BatchSocket

_NFT_MSG_GETSET, _NFT_MSG_GETFLOWTABLE = 10, 23
_TABLE = 1  # NFTA_CHAIN_TABLE, NFTA_SET_TABLE, NFTA_OBJ_TABLE, NFTA_FLOWTABLE_TABLE
_SET_FLAGS = 3  # NFTA_SET_FLAGS
_ANONYMOUS = 0x1  # NFT_SET_ANONYMOUS
_KINDS = (
    ("chain", NFT_MSG_GETCHAIN, 3),  # NFTA_CHAIN_NAME
    ("set", _NFT_MSG_GETSET, 2),  # NFTA_SET_NAME
    ("object", NFT_MSG_GETOBJ, 2),  # NFTA_OBJ_NAME
    ("flowtable", _NFT_MSG_GETFLOWTABLE, 2),  # NFTA_FLOWTABLE_NAME
)


def named(opened: BatchSocket, family: int) -> Iterator[tuple[str, str, str]]:
    """Table, kind and name of each in a family; a map is a set. Raises as `BatchSocket.dump`."""
    for kind, question, name in _KINDS:
        for _, data in opened.dump(question, family=family):
            told = dict(attributes(data))
            if kind != "set" or not int.from_bytes(told.get(_SET_FLAGS, b""), "big") & _ANONYMOUS:
                table, own = (told[each].rstrip(b"\0").decode(errors="surrogateescape") for each in (_TABLE, name))
                yield table, kind, own
