"""How an opening packet can be told from any other: by a nonce, 32 bits chosen anew for each run and hook.

Not by a mark, since rules of the user may rewrite marks. An nft rule drops what carries the nonce right behind the
hook it is meant for (nfkeep/keep/guard.py). csrc/conntrack_packets.c builds the packets.
"""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

UDP_MAGIC = b"nfkp"
"""The first four bytes of the payload of a UDP opening packet; the nonce follows."""


def payload(nonce: int) -> bytes:
    """The 8 bytes that a UDP opening packet carries: `nfkp` and the nonce, big-endian."""
    return UDP_MAGIC + struct.pack("!I", nonce)


def new_nonces(hooks: Collection[int]) -> dict[int, int]:
    """A fresh nonce for each hook, all different; never 0 or 2**32 - 1, which real packets carry more often."""
    nonces: set[int] = set()
    while len(nonces) < len(hooks):
        nonces.add(secrets.randbelow(0xFFFFFFFE) + 1)
    return dict(zip(hooks, nonces, strict=True))
