"""The operations on one list, by users who may: each checks timeout and share, asks BanList, and keeps the accounts.

What a ban costs a user is counted here and not in the kernel, which does not know who asked for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeAlias

from nfkeep import BanList, InvalidBanError, NfkeepError, RefusedBansError
from nfkeep.bans.given import read_address
from nfkeep.service.config import ListConfig
from nfkeep.service.limits import Key, Shares
from nfkeep.service.protocol import Operation, Refusal, Request, Trouble

Body: TypeAlias = "dict[str, object]"
"""What an answer holds beside `id` and `ok`."""


class Operations:
    """All but `bans`, which takes its time. For one thread at a time."""

    def __init__(self, config: ListConfig, bans: BanList) -> None:
        self._config = config
        self._bans = bans
        self._shares = Shares(config.max_entries)
        self._by_name: dict[Operation, Callable[[Request, int], Body]] = {
            Operation.BAN: self._ban,
            Operation.BAN_MANY: self._ban_many,
            Operation.UNBAN: self._unban,
            Operation.CONTAINS: self._contains,
        }

    def do(self, request: Request, uid: int) -> Body:
        """Do what a user asks for; raises Refusal, RefusedBansError, ListGoneError, and what else BanList does."""
        return self._by_name[request.operation](request, uid)

    def forget(self) -> None:
        """The list was gone, and with it all bans."""
        self._shares.clear()

    def _ban(self, request: Request, uid: int) -> Body:
        key = read_address(request.address)
        end = time.monotonic() + self._seconds(request.timeout)
        self._check_share(uid, [key])
        try:
            self._bans.ban(request.address, request.timeout, comment=request.comment)
        except NfkeepError:
            self._charge_what_is_there(uid, [(request.address, key, end)])
            raise
        self._shares.put(uid, [(key, end)])
        return {}

    def _ban_many(self, request: Request, uid: int) -> Body:
        now = time.monotonic()
        refused: list[tuple[object, NfkeepError]] = []
        given: list[str | tuple[str, float | None]] = []
        ends: list[tuple[str, Key, float]] = []
        for address, own in request.items:
            try:
                end = now + self._seconds(request.timeout if own is None else own)
                ends.append((address, read_address(address), end))
            except NfkeepError as error:
                refused.append((address, error))
            else:
                given.append(address if own is None else (address, own))
        self._check_share(uid, [key for _, key, _ in ends])
        failed: set[object] = set()
        try:
            banned = self._bans.ban_many(given, request.timeout)
        except RefusedBansError as error:
            banned = error.banned
            refused += error.refused
            failed.update(address for address, _ in error.refused)
        except NfkeepError:
            self._charge_what_is_there(uid, ends)
            raise
        self._shares.put(uid, [(key, end) for address, key, end in ends if address not in failed])
        if refused:
            raise RefusedBansError(tuple(refused), banned)
        return {"banned": banned}

    def _unban(self, request: Request, uid: int) -> Body:
        lifted = self._bans.unban(request.address)
        self._shares.drop(read_address(request.address))
        return {"unbanned": lifted}

    def _contains(self, request: Request, uid: int) -> Body:
        return {"contains": request.address in self._bans}

    def _check_share(self, uid: int, keys: list[Key]) -> None:
        excess = self._shares.excess(uid, keys, time.monotonic())
        if excess:
            "192.0.2.0" in self._bans  # noqa: B015  # raises ListGoneError if there is no list for the bans to be in
            most = self._config.max_entries
            raise Refusal(
                Trouble.OVER_QUOTA, f"{excess} more than the {most} bans that you may have in force in this list"
            )

    def _charge_what_is_there(self, uid: int, bans: list[tuple[str, Key, float]]) -> None:
        """After an error a ban can be in force, as if only the connections of whom it bans could not be cut."""
        self._shares.put(uid, [(key, end) for address, key, end in bans if address in self._bans])

    def _seconds(self, timeout: float | None) -> float:
        """How long a ban lasts that is asked for with this; raises InvalidBanError if it may not."""
        longest = math.inf if self._config.max_timeout is None else self._config.max_timeout
        if timeout is None:
            return longest if self._config.timeout is None else self._config.timeout
        if timeout > longest:
            raise InvalidBanError(f"{timeout:g} s is longer than the {longest:g} s that a ban in this list may last")
        return timeout
