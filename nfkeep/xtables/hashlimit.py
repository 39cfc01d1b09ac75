"""The hashlimit match: a table of token buckets, found by name and alive while a rule names it.

Layout: struct xt_hashlimit_mtinfo1-3 (linux/netfilter/xt_hashlimit.h). Buckets: /proc/net/ipt_hashlimit/NAME,
/proc/net/ip6t_hashlimit/NAME.
"""

from __future__ import annotations

from nfkeep.model import Family
from nfkeep.xtables.entry import Extension

NAME = "hashlimit"
_NAME_BYTES = {1: 16, 2: 255, 3: 255}
_DIRECTORY = {Family.IPV4: "ipt_hashlimit", Family.IPV6: "ip6t_hashlimit"}


def table_name(match: Extension) -> str:
    """The name of the table of buckets."""
    return match.data[: _NAME_BYTES.get(match.revision, 16)].split(b"\0")[0].decode(errors="surrogateescape")


def buckets(name: str, family: Family) -> int | None:
    """How many buckets a table of this network namespace holds; None if there is no such table."""
    if "/" in name or name in ("", ".", ".."):
        return None
    try:
        with open(f"/proc/thread-self/net/{_DIRECTORY[family]}/{name}", "rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return None
