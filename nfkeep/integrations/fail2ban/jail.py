"""What the action wants to know of its jail, asked of fail2ban's own objects.

fail2ban is not imported: the objects are those that it gives to its actions, and none of them has types.
"""

from __future__ import annotations

import math
import time
from typing import Any, TypeAlias

__all__ = ["Banned", "Jail", "ends_in"]

Banned: TypeAlias = "tuple[str, float]"
"""An address, and for how many seconds from now it is banned; math.inf is for ever."""


def ends_in(begun: float, bantime_seconds: float) -> float:
    """Seconds left of a ban that began at `begun` (the clock's time); fail2ban writes -1 for for ever."""
    return math.inf if bantime_seconds < 0 else begun + bantime_seconds - time.time()


class Jail:
    """A jail of fail2ban, from inside the server."""

    def __init__(self, jail: Any) -> None:
        self._jail = jail
        self.name: str = jail.name

    @property
    def ends(self) -> bool:
        """Whether the jail is being stopped, as at the end of the server, and nothing is to be lifted for that."""
        return not self._jail.actions.active

    def longest_seconds(self) -> float:
        """The longest ban that this jail gives, as it is set up now."""
        longest = self._jail.getMaxBanTime()
        return math.inf if longest is None or longest < 0 else float(longest)

    def current(self) -> dict[str, float]:
        """Those whom the jail bans now, and the seconds that are left."""
        manager = self._jail.actions.banManager
        default = manager.getBanTime()
        return {str(ticket.getIP()): ends_in(ticket.getTime(), ticket.getBanTime(default)) for ticket in iter(manager)}

    def persisted(self) -> dict[str, float]:
        """Those whom the jail will ban again after its start, from fail2ban's database.

        The question is the one that Jail.restoreCurrentBans asks. What it leaves out by `ignoreip` is still in here.
        """
        database = self._jail.database
        if database is None:
            return {}
        increments = self._jail.getBanTimeExtra("increment")
        tickets = database.getCurrentBans(
            jail=self._jail,
            forbantime=None if increments else self._jail.actions.getBanTime(),
            correctBanTime=self._jail.getMaxBanTime() if increments else True,
            maxmatches=0,
        )
        default = self._jail.actions.getBanTime()
        return {str(each.getIP()): ends_in(each.getTime(), each.getBanTime(default)) for each in tickets}

    def ignores(self, address: str) -> bool:
        """Whether the jail is told to ignore an address (`ignoreip`, `ignoreself`, `ignorecommand`)."""
        return bool(self._jail.filter.inIgnoreIPList(address, log_ignore=False))
