"""The hashlimit match: a table of token buckets, found by name and alive while a rule names it.

Layout: struct xt_hashlimit_mtinfo1-3 (linux/netfilter/xt_hashlimit.h). Buckets: /proc/net/ipt_hashlimit/NAME,
/proc/net/ip6t_hashlimit/NAME, a line for each: `SECONDS SOURCE:PORT->TARGET:PORT CREDIT CAP COST` (dl_seq_print() in
xt_hashlimit.c), alike for all revisions and modes, but that they reckon in different credits.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.xtables.entry import Extension

NAME = "hashlimit"
_NAME_BYTES = {1: 16, 2: 255, 3: 255}
_DIRECTORY = {Family.IPV4: "ipt_hashlimit", Family.IPV6: "ip6t_hashlimit"}
_ADDRESS = r"([0-9.]{7,15}|[0-9a-f:]{39})"
_LINE = re.compile(
    rf"(-?\d{{1,20}}) {_ADDRESS}:(\d{{1,5}})->{_ADDRESS}:(\d{{1,5}}) (\d{{1,20}}) (\d{{1,20}}) (\d{{1,20}})".encode()
)
_AT_ONCE = 1 << 16
_LAST_PORT = 0xFFFF
_CONFIGURATION = {1: (16, 46, 16), 2: (256, 294, 272), 3: (256, 298, 272)}  # struct hashlimit_cfg1-3, and its mode
_INVERT = 1 << 4


@attrs.frozen(slots=True)
class Bucket:
    """A key and what is left to it.

    `addresses`: of source and target, packed; `ports`: theirs. What the mode leaves out is zero. `seconds_left` until
    the key may be forgotten, rounded towards 0; below that it waits for the collector. `credit` is what is left now,
    refilled up to the moment of reading. Where packets are counted, each costs `cost`, and a full bucket has `cap`.
    Where bytes are, 16 of them cost that, and `cap` is how many times the bucket may yet be filled anew.
    """

    addresses: tuple[bytes, bytes]
    ports: tuple[int, int]
    seconds_left: int
    credit: int
    cap: int
    cost: int


def table_name(match: Extension) -> str:
    """The name of the table of buckets."""
    return match.data[: _NAME_BYTES.get(match.revision, 16)].split(b"\0")[0].decode(errors="surrogateescape")


def renamed(match: Extension, name: str) -> Extension:
    """The same match with another table."""
    size = _NAME_BYTES.get(match.revision, 16)
    return attrs.evolve(match, data=name.encode().ljust(size, b"\0") + match.data[size:])


def configuration(match: Extension) -> bytes:
    """What the kernel makes a table with; a rule that finds one of that name does not change it.

    hashlimit_mt_check_common() in net/netfilter/xt_hashlimit.c. Each rule inverts for itself, so that is no part of it.
    """
    start, end, mode_at = _CONFIGURATION.get(match.revision, (0, len(match.data), 0))
    (mode,) = struct.unpack_from("=I", match.data, mode_at)
    data = bytearray(match.data)
    struct.pack_into("=I", data, mode_at, mode & ~_INVERT)
    return bytes((match.revision, *data[start:end]))


def buckets(name: str, family: Family) -> int | None:
    """How many buckets a table of this network namespace holds; None if there is no such table."""
    if "/" in name or name in ("", ".", ".."):
        return None
    try:
        with open(f"/proc/thread-self/net/{_DIRECTORY[family]}/{name}", "rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return None


def read_buckets(name: str, family: Family) -> Iterator[tuple[float, Bucket]]:
    """The buckets of a table of this network namespace, each with when it was read (time.monotonic()).

    None if there is no such table. Raises UnsupportedError as `parse`.
    """
    if "/" in name or name in ("", ".", ".."):
        return
    try:
        fd = os.open(f"/proc/thread-self/net/{_DIRECTORY[family]}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    found, rest = [], b""
    try:
        while chunk := os.read(fd, _AT_ONCE):
            whole, end, rest = (rest + chunk).rpartition(b"\n")
            found.append((time.monotonic(), whole + end))
    finally:
        os.close(fd)
    for at, text in [*found, (time.monotonic(), rest)]:
        yield from ((at, bucket) for bucket in parse(text, family))


def parse(text: bytes, family: Family) -> list[Bucket]:
    """The buckets in lines of such a file. Raises UnsupportedError for one that is not as the kernel writes them."""
    found, number = [], int(family.value)
    for line in text.splitlines():
        parts = _LINE.fullmatch(line)
        try:
            if parts is None:
                raise ValueError
            found.append(_bucket(number, *parts.groups()))
        except (ValueError, OSError):
            raise UnsupportedError(
                f"this kernel writes tables of hashlimit in a way that nfkeep does not know: {line!r:.160}",
                "xt_hashlimit",
            ) from None
    return found


def _bucket(family: int, left: bytes, *told: bytes) -> Bucket:
    source, source_port, target, target_port, credit, cap, cost = told
    ports = int(source_port), int(target_port)
    if max(ports) > _LAST_PORT:
        raise ValueError
    addresses = socket.inet_pton(family, source.decode()), socket.inet_pton(family, target.decode())
    return Bucket(addresses, ports, int(left), int(credit), int(cap), int(cost))
