"""The recent match: lists of addresses with time stamps, found by name and alive while a rule names them.

Layout: struct xt_recent_mtinfo, _v1 (linux/netfilter/xt_recent.h). Entries: /proc/net/xt_recent/NAME.
"""

from __future__ import annotations

import os
import re
import socket
import struct

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.xtables._ffi import write_recent as write_recent
from nfkeep.xtables.entry import Extension

NAME = "recent"
DIRECTORY = "/proc/thread-self/net/xt_recent"
DEFAULT_STAMPS = 32
"""Time stamps that the kernel keeps per address for a rule without `--hitcount`."""

_SET, _UPDATE, _REMOVE = 2, 4, 8
_ADDRESS_BYTES = 16  # union nf_inet_addr
_PARAMETERS = "/sys/module/xt_recent"
_DEFAULT_SIZE = 100  # ip_list_tot in net/netfilter/xt_recent.c
_LINE = re.compile(
    rb"^src=([0-9.]{7,15}|[0-9a-f:]{2,39}) ttl: \d{1,3} last_seen: (\d{1,20}) oldest_pkt: \d{1,5}(?:,? \d{1,20})*$",
    re.MULTILINE,
)


@attrs.frozen(slots=True)
class Capacity:
    """How many addresses each list of this kernel keeps before it silently drops the oldest.

    `is_module`: whether xt_recent can be loaded anew with another number; None where /sys does not tell, so that
    `size` is only what the kernel does unless it was told otherwise.
    """

    size: int
    is_module: bool | None


def list_name(match: Extension) -> str:
    """The name of the list."""
    return match.data[10:210].split(b"\0")[0].decode(errors="surrogateescape")


def renamed(match: Extension, name: str) -> Extension:
    """The same match with another list."""
    return attrs.evolve(match, data=match.data[:10] + name.encode().ljust(200, b"\0") + match.data[210:])


def mask(match: Extension) -> bytes:
    """What a list made for this rule masks every packet's address with, of both families: 16 bytes.

    iptables sets the last 12 to zero when it reads `--mask` of IPv4, as each iptables-restore makes it do.
    """
    data = match.data[212 : 212 + _ADDRESS_BYTES]
    return data if len(data) == _ADDRESS_BYTES else b"\xff" * _ADDRESS_BYTES  # revision 0 has no mask


def writes(match: Extension) -> bool:
    """Whether a packet that meets the match can change the list."""
    return bool(match.data[8] & (_SET | _UPDATE | _REMOVE))


def room_for_stamps(match: Extension) -> int:
    """Time stamps that the kernel keeps per address for this rule: `--hitcount` up to a power of two, else 32.

    A rule that wants more room than the list has makes the kernel empty the list (recent_mt_check()).
    """
    (hits,) = struct.unpack_from("=I", match.data, 4)
    return 1 << (int(hits) - 1).bit_length() if hits else DEFAULT_STAMPS


def entries(name: str) -> int | None:
    """How many addresses a list of this network namespace holds; None if there is no such list."""
    if "/" in name or name in ("", ".", ".."):
        return None
    try:
        with open(f"{DIRECTORY}/{name}", "rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return None


def parse(text: bytes) -> dict[bytes, int]:
    """What a list holds, from the text of its file: packed addresses, and the jiffies when each was last seen.

    An address that is there twice, as the list was changed while it was read, counts as seen at the latest.
    Raises UnsupportedError for a line that is not as the kernel writes them.
    """
    lines = _LINE.findall(text)
    if len(lines) != len(text.splitlines()):
        raise _unknown(text)
    found: dict[bytes, int] = {}
    for address, last_seen in lines:
        try:
            key = socket.inet_pton(socket.AF_INET6 if b":" in address else socket.AF_INET, address.decode())
        except OSError:
            raise _unknown(address) from None
        found[key] = max(int(last_seen), found.get(key, 0))
    return found


def capacity() -> Capacity:
    """How much this kernel keeps in each list; what it keeps by default, where /sys does not tell."""
    try:
        with open(f"{_PARAMETERS}/parameters/ip_list_tot", encoding="ascii") as file:
            size = int(file.read())
    except (OSError, ValueError):
        return Capacity(_DEFAULT_SIZE, None)
    return Capacity(size, os.path.exists(f"{_PARAMETERS}/initstate"))


def _unknown(text: bytes) -> UnsupportedError:
    bad = next((line for line in text.splitlines() if not _LINE.fullmatch(line)), text)
    return UnsupportedError(
        f"this kernel writes lists of recent in a way that nfkeep does not know: {bad!r:.160}", feature="xt_recent"
    )
