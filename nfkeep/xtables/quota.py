"""The quota match: bytes that may still pass.

Layout: struct xt_quota_info (linux/netfilter/xt_quota.h). The kernel counts down a private copy, made anew at every
replace from the rule's own figure (net/netfilter/xt_quota.c, quota_mt_check).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs

from nfkeep.model import Rule
from nfkeep.xtables.entry import Extension, decode, with_match

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


def figures(rule: Rule) -> tuple[int, ...]:
    """Of each quota in a rule, in order: a packet has to pass all of them."""
    if NAME.encode() not in rule.entry:  # most rules, and quickly
        return ()
    return tuple(quota(match) for match in decode(rule).matches if match.name == NAME)


def with_figures(rule: Rule, figures: Sequence[int]) -> Rule:
    """The same rule with other figures, as many as it has quotas."""
    if not figures:
        return rule
    at = [index for index, match in enumerate(decode(rule).matches) if match.name == NAME]
    for index, figure in zip(at, figures, strict=True):
        rule = with_match(rule, index, with_quota(decode(rule).matches[index], figure))
    return rule
