"""The tables of nft that are there, read from the kernel: nft 1.0.6 dies of listing a table with an owner as JSON."""

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.wire import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

_NFT_MSG_GETTABLE = 1
_NAME, _HANDLE = 1, 4  # NFTA_TABLE_*
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*


def list_tables() -> Mapping[tuple[str, str], int]:
    """The tables of this network namespace, as (family, name), and their handles: a table made anew has another.

    Raises PermissionDeniedError, UnsupportedError.
    """
    with contextlib.closing(BatchSocket()) as opened:
        listed = opened.dump(_NFT_MSG_GETTABLE)
    tables = [(_FAMILIES.get(family, f"{family}"), dict(attributes(data))) for family, data in listed]
    return MappingProxyType(
        {
            (family, told[_NAME].rstrip(b"\0").decode(errors="replace")): int.from_bytes(told[_HANDLE], "big")
            for family, told in tables
        }
    )
