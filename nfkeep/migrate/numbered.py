"""Names that iproute2's tables give to numbers (/etc/iproute2/rt_realms, group), as iptables-save prints them."""

from __future__ import annotations

import re
from pathlib import Path

from nfkeep.migrate.loss import Lost

_FOLDERS = (Path("/etc/iproute2"), Path("/usr/share/iproute2"), Path("/usr/lib/iproute2"))
_LINE = re.compile(r"\s*(0x[0-9a-fA-F]+|[0-9]+)\s+(\S+)")
_ALWAYS = {"rt_realms": {"cosmos": 0}, "group": {"default": 0}}


def numbered(value: str, table: str) -> str:
    """`VALUE[/MASK]` with the number instead of the name. Raises Lost for a name that the host does not know."""
    name, slash, mask = value.partition("/")
    if name[:1].isdecimal():
        return value
    number = {**_ALWAYS[table], **_read(table)}.get(name)
    if number is None:
        raise Lost(f"{name!r} is in no table of this host", "write its number")
    return f"{number}{slash}{mask}"


def _read(table: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for folder in reversed(_FOLDERS):
        try:
            text = (folder / table).read_text(errors="replace")
        except OSError:
            continue
        lines = (_LINE.match(line) for line in text.splitlines())
        found.update((line[2], int(line[1], 0)) for line in lines if line)
    return found
