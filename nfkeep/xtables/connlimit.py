"""The connlimit match: how many connections one address or network may have.

Layout: struct xt_connlimit_info (linux/netfilter/xt_connlimit.h). The counts live behind a kernel pointer in the
rule, made anew at every table replace (net/netfilter/xt_connlimit.c, connlimit_mt_check).
"""

from __future__ import annotations

import struct

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.xtables.entry import Extension

NAME = "connlimit"
_INVERT, _BY_DESTINATION = 1, 2


@attrs.frozen(slots=True)
class Connlimit:
    """`limit` connections per key; `upto` matches while there are at most that many, else when there are more.

    The key is the source (or, `by_destination`, the destination) under `mask`, of which an IPv4 rule uses 4 bytes only:
    iptables leaves the other 12 as they come.
    """

    limit: int
    upto: bool
    by_destination: bool
    mask: bytes


def decode(match: Extension) -> Connlimit:
    """Take a connlimit match apart."""
    if match.name != NAME or match.revision > 1:
        raise UnsupportedError(f"revision {match.revision} of {match.name} is not known", feature=NAME)
    mask, limit, flags = struct.unpack_from("=16sII", match.data)
    return Connlimit(limit, bool(flags & _INVERT), match.revision == 1 and bool(flags & _BY_DESTINATION), mask)


def same_count(left: Extension, right: Extension, size: int) -> bool:
    """Whether two connlimit matches count the same thing, whatever they allow of it; addresses have `size` bytes."""
    one, other = decode(left), decode(right)
    return (one.mask[:size], one.by_destination) == (other.mask[:size], other.by_destination)
