"""The statistic match; its nth mode keeps a position that nothing outside the kernel can read.

Layout: struct xt_statistic_info (linux/netfilter/xt_statistic.h); position: struct xt_statistic_priv, made anew at
every replace (net/netfilter/xt_statistic.c).
"""

from __future__ import annotations

import struct

from nfkeep.xtables.entry import Extension

NAME = "statistic"
_MODE_NTH = 1


def every(match: Extension) -> int | None:
    """N of `--mode nth --every N`; None in random mode, which has no state."""
    mode, _flags, every_less_one = struct.unpack_from("=HHI", match.data)
    return int(every_less_one) + 1 if mode == _MODE_NTH else None
