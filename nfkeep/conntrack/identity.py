"""How an opening packet can be told from any other: by a nonce, 32 bits chosen anew for each run and hook.

Not by a mark, since rules of the user may rewrite marks. An nft rule drops what carries the nonce right behind the
hook it is meant for; `tcp_match` and `udp_match` are the words for that. csrc/conntrack_packets.c builds the packets.
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


def tcp_match(nonce: int) -> str:
    """The nft expression that a TCP opening packet with this nonce matches: SYN or SYN|ACK, and the sequence number."""
    return f"tcp flags & (fin | syn | rst) == syn tcp sequence {nonce}"


def udp_match(nonce: int) -> str:
    """The nft expression that a UDP opening packet with this nonce matches: its length and its whole payload."""
    return f"meta l4proto udp udp length 16 @th,64,64 0x{payload(nonce).hex()}"
