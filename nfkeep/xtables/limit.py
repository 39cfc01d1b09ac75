"""The limit match: a token bucket whose level nothing outside the kernel can read.

Layout: struct xt_rateinfo (linux/netfilter/xt_limit.h); the level, `credit`, lies past the bytes that user space gets
(net/netfilter/xt_limit.c, usersize) and is full again after every replace.
"""

from __future__ import annotations

import struct

from nfkeep.xtables.entry import Extension

NAME = "limit"


def burst(match: Extension) -> int:
    """Packets that the full bucket lets through at once."""
    return int(struct.unpack_from("=I", match.data, 4)[0])
