"""The quota match: bytes that may still pass.

Layout: struct xt_quota_info (linux/netfilter/xt_quota.h). The kernel counts down a private copy, made anew at every
replace from the rule's own figure (net/netfilter/xt_quota.c, quota_mt_check).
"""

from __future__ import annotations

import struct

from nfkeep.xtables.entry import Extension

NAME = "quota"


def quota(match: Extension) -> int:
    """Bytes that the rule starts with."""
    return int(struct.unpack_from("=Q", match.data, 8)[0])
