"""The quota match: bytes that may still pass.

Layout: struct xt_quota_info (linux/netfilter/xt_quota.h). The kernel counts down a private copy, made anew at every
replace from the rule's own figure (net/netfilter/xt_quota.c, quota_mt_check).
"""

from __future__ import annotations

import struct

import attrs

from nfkeep.xtables.entry import Extension

NAME = "quota"
_INVERT = 1  # XT_QUOTA_INVERT


def quota(match: Extension) -> int:
    """Bytes that the rule starts with."""
    return int(struct.unpack_from("=Q", match.data, 8)[0])


def inverted(match: Extension) -> bool:
    """Whether the rule matches once the quota is used up: `! --quota`."""
    return bool(struct.unpack_from("=I", match.data)[0] & _INVERT)


def with_quota(match: Extension, figure: int) -> Extension:
    """The same match with another figure."""
    return attrs.evolve(match, data=match.data[:8] + struct.pack("=Q", figure) + match.data[16:])
