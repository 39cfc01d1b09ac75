"""What the Python action does for its jail: bans as elements of one list, which outlives fail2ban.

Every method may be called by any of fail2ban's threads. A list that another program removed (`nft flush ruleset`) is
made anew with all bans of the jail as soon as that is noticed: by the next ban, or by a look every few seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from logging import Logger
from typing import Any

from nfkeep.errors import AllowedAddressError, ListGoneError, NfkeepError
from nfkeep.integrations.fail2ban import old_lists
from nfkeep.integrations.fail2ban.jail import Jail, ends_in
from nfkeep.integrations.fail2ban.lists import JailList, left_seconds
from nfkeep.integrations.fail2ban.options import Options
from nfkeep.integrations.fail2ban.watch import Watch

__all__ = ["JailBans"]


class JailBans:
    """The bans of one jail (fail2ban's own object). `parameters`: those of the action; `log`: fail2ban's log."""

    def __init__(self, jail: Any, parameters: Mapping[str, str], log: Logger) -> None:
        self._jail = Jail(jail)
        self._parameters = dict(parameters)
        self._log = log
        self._list: JailList | None = None
        self._lock = threading.RLock()
        self._watch: Watch | None = None

    def start(self) -> None:
        """Adopt the list with what is in it, or make it; put all in force whom fail2ban knows. Idempotent.

        Raises what BanList.open does, and InvalidListError for parameters that cannot be.
        """
        with self._lock:
            self._ready()

    def reload(self, parameters: Mapping[str, str]) -> None:
        """Have the list do what other parameters ask for, in place. A list with another name takes over all bans.

        Raises nothing, as fail2ban would end the reload of all jails there: it logs, and goes on as before.
        """
        with self._lock:
            before, old_parameters = self._list, self._parameters
            self._list, self._parameters = None, dict(parameters)
            try:
                now = self._ready()
            except (NfkeepError, OSError) as error:
                self._list, self._parameters = before, old_parameters
                self._log.error("[%s] the action goes on with its old parameters: %s", self._jail.name, error)
                return
            if before is None:
                return
            if (before.bans.name, before.bans.backend) == (now.bans.name, now.bans.backend):
                before.bans.close()
                return
            with contextlib.suppress(ListGoneError):
                here = {str(ban.address) for ban in now.bans}
                rest = {str(ban.address): left_seconds(ban) for ban in before.bans if str(ban.address) not in here}
                now.put(rest, self._log)
            before.bans.remove()

    def stop(self) -> None:
        """Let go of the list. All bans stay in force, unless the jail goes on without this action."""
        with self._lock:
            if self._watch is not None:
                self._watch.end()
            if self._list is not None:
                if self._jail.ends:
                    self._list.bans.close()
                else:
                    self._list.bans.remove()
                self._list = None

    def ban(self, address: str, begun: float, bantime_seconds: float) -> None:
        """Ban for what is left of `bantime_seconds` since `begun` (the clock's time), or renew that.

        Raises what BanList.ban does, but for addresses that are not to be banned: those are only logged.
        """
        left = ends_in(begun, bantime_seconds)
        with self._lock:
            ready = self._ready()
            try:
                try:
                    ready.bans.ban(address, ready.kernel_seconds(left))
                except ListGoneError:
                    self._mend()
                    ready.bans.ban(address, ready.kernel_seconds(left))
            except AllowedAddressError as error:
                self._log.warning("[%s] %s", self._jail.name, error)

    def unban(self, address: str) -> None:
        """Lift a ban, if it is there."""
        with self._lock:
            ready = self._ready()
            try:
                ready.bans.unban(address)
            except ListGoneError:
                self._mend()
                ready.bans.unban(address)

    def flush(self) -> None:
        """Lift all bans; none if the jail is only being stopped."""
        with self._lock:
            if self._jail.ends:
                return
            ready = self._ready()
            try:
                ready.bans.flush()
            except ListGoneError:
                ready.bans.open()

    def check(self) -> None:
        """See to it that the list is in force with all bans of the jail, until they end."""
        with self._lock:
            ready = self._ready()
            if not ready.in_force():
                self._mend()
            else:  # fail2ban may have prolonged some without telling
                ready.put(self._jail.current(), self._log)

    def _ready(self) -> JailList:
        if self._list is None:
            options = Options.parse(self._jail.name, self._parameters)
            if options.unknown:
                self._log.error("[%s] nfkeep has no parameter %s", self._jail.name, ", ".join(options.unknown))
            opened = JailList.open(options, self._jail.longest_seconds())
            self._fill(opened)
            if self._watch is not None:
                self._watch.end()
            self._list, self._watch = opened, Watch(self._jail, opened, self._lock, self._mend, self._log)
            self._watch.start()
        return self._list

    def _fill(self, opened: JailList) -> None:
        name, bans = self._jail.name, opened.bans
        self._log.info("[%s] ban list %s in %s: %d bans adopted", name, bans.name, bans.backend, len(bans))
        for old in old_lists.find(opened.options):
            try:
                count = opened.put(old.entries(self._jail.longest_seconds()), self._log)
                self._log.info("[%s] %d bans taken over from xt_recent list %s", name, count, old.name)
            except (NfkeepError, OSError) as error:
                self._log.error("[%s] xt_recent list %s cannot be taken over: %s", name, old.name, error)
        count = opened.put(self._known(), self._log)
        self._log.info("[%s] %d bans of fail2ban put in force", name, count)

    def _known(self) -> dict[str, float]:
        """All whom fail2ban bans or is about to: after its start it still works through the tickets of its database."""
        persisted: dict[str, float] = {}
        try:
            persisted = self._jail.persisted()
        except Exception as error:  # it is fail2ban's code, and its database may be damaged
            self._log.error("[%s] the persisted bans cannot be read: %s", self._jail.name, error)
        return {**persisted, **self._jail.current()}

    def _mend(self) -> None:
        """Make a list anew that is gone, with all bans that fail2ban knows."""
        self._log.warning(
            "[%s] another program has removed the ban list or its rules; putting all bans back", self._jail.name
        )
        assert self._list is not None
        self._list.bans.open()
        self._list.put(self._known(), self._log)
