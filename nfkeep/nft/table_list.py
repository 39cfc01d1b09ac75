"""The tables of nft that are there, read from the kernel.

Not by `nft -j`: that of nft 1.0.6 dies of listing a table with an owner, and prints nonsense of one that is dormant.
"""

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.wire import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

DORMANT = 0x1
"""NFT_TABLE_F_DORMANT."""

_NFT_MSG_GETTABLE = 1
_NAME, _FLAGS, _HANDLE = 1, 2, 4  # NFTA_TABLE_*
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*


@attrs.frozen(slots=True)
class SeenTable:
    """A table. `handle`: no other table has or gets it until the next boot. `dormant`: no packet meets its chains."""

    family: int
    name: str
    handle: int
    dormant: bool

    @property
    def key(self) -> tuple[str, str]:
        """The family's name, as nft has it, and the table's."""
        return _FAMILIES.get(self.family, f"{self.family}"), self.name


def tables(opened: BatchSocket) -> list[SeenTable]:
    """All tables of this network namespace, of all families. Raises PermissionDeniedError, UnsupportedError."""
    found = []
    for family, data in opened.dump(_NFT_MSG_GETTABLE):
        told = dict(attributes(data))
        name = told[_NAME].rstrip(b"\0").decode(errors="surrogateescape")
        handle, flags = (int.from_bytes(told[each], "big") for each in (_HANDLE, _FLAGS))
        found.append(SeenTable(family, name, handle, bool(flags & DORMANT)))
    return found


def table_handles() -> Mapping[tuple[str, str], int]:
    """The handles of all tables, by (family, name): a table that was made anew has another one."""
    with contextlib.closing(BatchSocket()) as opened:
        return MappingProxyType({each.key: each.handle for each in tables(opened)})
