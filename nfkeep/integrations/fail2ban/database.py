"""fail2ban's database of bans, read from outside: it tells whom a jail bans, also while fail2ban is down.

The table `bips` has one row for each address that a jail banned last; fail2ban deletes it when somebody lifts the ban.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from nfkeep.errors import NfkeepError

__all__ = ["DATABASE", "Row", "persisted", "rows"]

DATABASE = Path("/var/lib/fail2ban/fail2ban.sqlite3")
"""Where it is, unless fail2ban.conf says otherwise."""
_LOCKED_SECONDS = 5.0
_UNKNOWN_BANTIME = 600.0  # what fail2ban takes for the -2 in rows of its older versions


@attrs.frozen(slots=True)
class Row:
    """A ban that a jail made: its address, when it began (the clock's time), and for how long; math.inf is for ever."""

    address: str
    begun: float
    bantime_seconds: float

    def left_seconds(self) -> float:
        """What is left of it; 0 or less if it is over."""
        return self.begun + self.bantime_seconds - time.time()


def rows(database: Path, jail: str) -> list[Row]:
    """All bans that the database has of a jail, those that are over included. Raises NfkeepError."""
    with _reading(database) as connection:
        found = connection.execute("SELECT ip, timeofban, bantime FROM bips WHERE jail = ?", (jail,)).fetchall()
    lasts = {-1: math.inf, -2: _UNKNOWN_BANTIME}
    return [Row(str(ip), float(begun), lasts.get(bantime, float(bantime))) for ip, begun, bantime in found]


def persisted(database: Path, jail: str) -> dict[str, float]:
    """Whom a jail bans by the database, and the seconds that are left. Raises NfkeepError."""
    return {row.address: left for row in rows(database, jail) if (left := row.left_seconds()) > 0}


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", timeout=_LOCKED_SECONDS, uri=True)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise NfkeepError(f"{database} cannot be read as the database of fail2ban: {error}") from None
