"""The tables of nft that are there, asked of the kernel itself.

nft 1.0.6 is of no help: `nft -j` prints anything, or crashes, where a table is dormant.
"""

from __future__ import annotations

import contextlib
from types import MappingProxyType

import attrs

from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.wire import attributes

_NFT_MSG_GETTABLE = 1
_NAME, _FLAGS = 1, 2  # NFTA_TABLE_*
_DORMANT = 0x1  # NFT_TABLE_F_DORMANT
_FAMILIES = MappingProxyType({1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"})  # NFPROTO_*


@attrs.frozen(slots=True)
class SeenTable:
    """A table; its family as nft says it. `dormant`: it has no hooks, so no packet passes its rules."""

    family: str
    name: str
    dormant: bool


def list_tables() -> list[SeenTable]:
    """The tables of this network namespace. Raises as `BatchSocket.dump` does."""
    with contextlib.closing(BatchSocket()) as opened:
        listed = [(family, dict(attributes(data))) for family, data in opened.dump(_NFT_MSG_GETTABLE)]
    return [
        SeenTable(_FAMILIES[family], _text(told[_NAME]), bool(told[_FLAGS][-1] & _DORMANT)) for family, told in listed
    ]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
