"""Looks after the list of a jail from a thread of its own, as fail2ban calls an action only when there is a ban.

First it tidies up what was adopted; then it looks every few seconds whether the list is still in force.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import Logger

from nfkeep.errors import NfkeepError
from nfkeep.integrations.fail2ban.jail import Jail
from nfkeep.integrations.fail2ban.lists import JailList, left_seconds

__all__ = ["Watch"]


class Watch:
    """The watch over one open list, from `start` to `end`. `lock` is held while anything is changed.

    `mend` is called, under the lock, when another program has removed the list or its rules.
    """

    def __init__(
        self, jail: Jail, watched: JailList, lock: threading.RLock, mend: Callable[[], None], log: Logger
    ) -> None:
        self._jail, self._watched, self._lock, self._mend, self._log = jail, watched, lock, mend, log
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin; the thread ends with the process at the latest."""
        threading.Thread(target=self._run, name=f"nfkeep/{self._jail.name}", daemon=True).start()

    def end(self) -> None:
        """Change nothing any more; to be called under the lock."""
        self._ended.set()

    def _run(self) -> None:
        said = self._attempt(self._tidy, "")
        interval = self._watched.options.check_seconds
        while interval and not self._ended.wait(interval):
            said = self._attempt(self._look, said)

    def _attempt(self, act: Callable[[], None], said: str) -> str:
        """Act, and say what goes wrong, but not twice in a row; what was said."""
        try:
            act()
        except (NfkeepError, OSError) as error:
            if str(error) != said and not self._ended.is_set():
                self._log.error("[%s] %s", self._jail.name, error)
            return str(error)
        return ""

    def _look(self) -> None:
        with self._lock:
            if not self._ended.is_set() and not self._watched.in_force():
                self._mend()

    def _tidy(self) -> None:
        """Lift whom the jail is told to ignore by now; shorten what is longer than any ban of the jail.

        `ignoreip` and `bantime` may have changed while fail2ban was down. What the jail bans now is left alone.
        """
        longest = self._jail.longest_seconds()
        most = longest + self._watched.options.grace_seconds + 1.0
        for ban in list(self._watched.bans):
            address = str(ban.address)
            ignored = self._jail.ignores(address)
            if not ignored and left_seconds(ban) <= most:
                continue
            with self._lock:
                if self._ended.is_set():
                    return
                if address in self._jail.current():
                    continue
                if ignored:
                    self._watched.bans.unban(address)
                    self._log.info("[%s] %s is to be ignored: its ban is lifted", self._jail.name, address)
                else:
                    self._watched.put({address: longest}, self._log)
