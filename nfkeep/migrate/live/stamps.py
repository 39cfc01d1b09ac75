"""A list of the recent match with all its time stamps, as ages: what sets with timeouts need to begin with.

/proc/net/xt_recent/NAME: `src=ADDRESS ttl: N last_seen: JIFFIES oldest_pkt: INDEX STAMP, STAMP, …`
(recent_seq_show() in xt_recent.c). The stamps are a ring; `INDEX` is the place of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from nfkeep.errors import UnsupportedError
from nfkeep.xtables.recent import DIRECTORY

if TYPE_CHECKING:
    from nfkeep.xtables.jiffies import KernelClock

ListEntries: TypeAlias = Mapping[str, tuple[float, ...]]
"""By address, how many seconds ago it was seen each time: the latest first."""

_LINE = re.compile(r"src=([0-9a-f.:]{2,39}) ttl: \d{1,3} last_seen: (\d{1,20}) oldest_pkt: \d{1,5},? ([\d, ]*)")


def read_list(name: str, clock: KernelClock | None) -> ListEntries | None:
    """What a list of this network namespace holds; None if there is none of this name, or no clock to tell ages."""
    if clock is None or "/" in name or name in ("", ".", ".."):
        return None
    try:
        with open(f"{DIRECTORY}/{name}", encoding="ascii") as file:
            return parse_list(file.read(), clock)
    except FileNotFoundError:
        return None


def parse_list(text: str, clock: KernelClock) -> ListEntries:
    """The same from the file's text. Raises UnsupportedError for a line that is not as the kernel writes them."""
    found: dict[str, tuple[float, ...]] = {}
    for line in text.splitlines():
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise UnsupportedError(f"a line of a list of recent that nfkeep does not know: {line!r:.160}", "xt_recent")
        stamps = [int(each) for each in parts[3].replace(",", " ").split()] or [int(parts[2])]
        found[parts[1]] = tuple(sorted(map(clock.age_seconds, stamps)))
    return MappingProxyType(found)
