"""The recent match: lists of addresses with time stamps, found by name and alive while a rule names them.

Layout: struct xt_recent_mtinfo, _v1 (linux/netfilter/xt_recent.h). Entries: /proc/net/xt_recent/NAME.
"""

from __future__ import annotations

import struct

from nfkeep.xtables.entry import Extension

NAME = "recent"
_SET, _UPDATE, _REMOVE = 2, 4, 8
_DIRECTORY = "/proc/thread-self/net/xt_recent"


def list_name(match: Extension) -> str:
    """The name of the list."""
    return match.data[10:210].split(b"\0")[0].decode(errors="surrogateescape")


def writes(match: Extension) -> bool:
    """Whether a packet that meets the match can change the list."""
    return bool(match.data[8] & (_SET | _UPDATE | _REMOVE))


def room_for_stamps(match: Extension) -> int:
    """Time stamps that the kernel keeps per address for this rule: `--hitcount` up to a power of two, else 32.

    A rule that wants more room than the list has makes the kernel empty the list (recent_mt_check()).
    """
    (hits,) = struct.unpack_from("=I", match.data, 4)
    return 1 << (int(hits) - 1).bit_length() if hits else 32


def entries(name: str) -> int | None:
    """How many addresses a list of this network namespace holds; None if there is no such list."""
    if "/" in name or name in ("", ".", ".."):
        return None
    try:
        with open(f"{_DIRECTORY}/{name}", "rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return None
