"""Puts the bans of a jail in force beside whatever enforces them now, so that a change of actions leaves no gap.

The bans come from fail2ban's database, whichever action made them, and from the xt_recent lists of older set-ups.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from nfkeep.integrations.fail2ban import database, old_lists
from nfkeep.integrations.fail2ban.configuration import Configuration
from nfkeep.integrations.fail2ban.lists import JailList
from nfkeep.integrations.fail2ban.old_lists import OldList

__all__ = ["Adopted", "adopt", "lift_flushed"]

_LOG = logging.getLogger("nfkeep.fail2ban")


@attrs.frozen(slots=True)
class Adopted:
    """What was put in force for one jail: bans from the database, and from each older list; then how many there are."""

    jail: str
    list_name: str
    backend: str
    from_database: int
    from_old_lists: dict[str, int]
    bans: int
    old_lists: tuple[OldList, ...] = attrs.field(repr=False)


def adopt(configuration: Configuration) -> Iterator[Adopted]:
    """Make or adopt the lists of all jails that nfkeep is to ban for, and put the bans of these jails in force.

    Nothing is taken down. Raises what BanList does, and NfkeepError for a database that cannot be read; without one
    there are the older lists.
    """
    for jail, options in configuration.jails:
        opened = JailList.open(options)
        with opened.bans:
            olds = old_lists.find(options)
            taken = {old.name: opened.put(old.entries(), _LOG) for old in olds}
            path = configuration.database
            count = 0
            if path is not None and (path.exists() or not taken):
                count = opened.put(database.persisted(path, jail), _LOG)
            bans = opened.bans
            yield Adopted(jail, bans.name, bans.backend, count, taken, len(bans), olds)


def lift_flushed(opened: JailList, path: Path, jail: str, flushed_at: float, patience_seconds: float = 5.0) -> int:
    """Lift the bans of a list if fail2ban has dropped all that a jail had in its database at a time; how many.

    fail2ban flushes a list when it is told to lift all bans, and when it is only being stopped, and does not say which.
    In the former case it then empties the database, for which this waits.
    """
    deadline = time.monotonic() + patience_seconds
    found = database.rows(path, jail)
    while any(row.begun < flushed_at for row in found):
        if time.monotonic() > deadline:
            return 0
        time.sleep(_INTERVAL_SECONDS)
        found = database.rows(path, jail)
    since = {row.address for row in found}
    return opened.bans.unban_many([ban.address for ban in opened.bans if str(ban.address) not in since])


_INTERVAL_SECONDS = 0.1
