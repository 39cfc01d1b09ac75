"""Lists page by page: a snapshot in the order of addresses, taken in a thread, so that bans go on meanwhile.

A snapshot serves all clients until it is nine times as old as it took to make: listing takes a tenth of the time at
most, whoever asks how often.
"""

from __future__ import annotations

import asyncio
import bisect
import ipaddress
import time
from collections.abc import Callable
from typing import TypeAlias

import attrs

from nfkeep import Ban, BanList, InvalidAddressError, ListGoneError
from nfkeep.bans.given import read_address
from nfkeep.bans.values import Address

_Place: TypeAlias = tuple[int, int, int]
_AGE = 9  # times what it took
_KEPT_SECONDS = 60.0


@attrs.frozen(slots=True, eq=False)
class _Snapshot:
    bans: list[Ban]
    places: list[_Place]
    taken: float  # monotonic
    took: float


class Listing:
    """What is in one list. `make` gives a BanList of its own for the thread: the one that bans is never waited for."""

    def __init__(self, make: Callable[[], BanList]) -> None:
        self._make = make
        self._reader: BanList | None = None
        self._snapshot: _Snapshot | None = None
        self._coming: asyncio.Future[_Snapshot] | None = None
        self._end: asyncio.TimerHandle | None = None

    async def page(self, after: str, limit: int) -> dict[str, object]:
        """Up to `limit` bans behind the address `after` ("": from the first on), as an answer has them.

        Raises InvalidAddressError, ListGoneError, and what else BanList does.
        """
        start = _place_of(after) if after else (0, 0, 0)
        snapshot = await self._fresh()
        age = time.monotonic() - snapshot.taken
        found: list[dict[str, object]] = []
        at = bisect.bisect_right(snapshot.places, start)
        while at < len(snapshot.bans) and len(found) < limit:
            ban = snapshot.bans[at]
            at += 1
            expires = None if ban.expires is None else round(ban.expires - age, 3)
            if expires is None or expires > 0:
                told: dict[str, object] = {"address": str(ban.address), "timeout": ban.timeout, "expires": expires}
                found.append({**told, "comment": ban.comment} if ban.comment else told)
        more = str(snapshot.bans[at - 1].address) if at < len(snapshot.bans) else None
        return {"bans": found, "next": more, "age": round(age, 3)}

    def close(self) -> None:
        """Let go of the kernel. Idempotent."""
        self._drop()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    async def _fresh(self) -> _Snapshot:
        seen = self._snapshot
        if seen is not None and time.monotonic() - seen.taken < _AGE * seen.took:
            return seen
        if self._coming is None:
            loop = asyncio.get_running_loop()
            self._coming = asyncio.ensure_future(loop.run_in_executor(None, self._take))
            self._coming.add_done_callback(self._keep)
        return await asyncio.shield(self._coming)  # others may wait for it, too

    def _keep(self, coming: asyncio.Future[_Snapshot]) -> None:
        self._coming = None
        if coming.cancelled() or coming.exception() is not None:
            return
        self._drop()
        self._snapshot = coming.result()
        kept_seconds = max(_KEPT_SECONDS, _AGE * self._snapshot.took)
        self._end = asyncio.get_running_loop().call_later(kept_seconds, self._drop)

    def _drop(self) -> None:
        """A large list is tens of megabytes, which nobody needs who does not ask for it."""
        self._snapshot = None
        if self._end is not None:
            self._end.cancel()

    def _take(self) -> _Snapshot:
        """In a thread, one at a time."""
        began = time.monotonic()
        if self._reader is None:
            reader = self._make()
            if not reader.exists():  # to open it would make it
                raise ListGoneError(reader.name)
            self._reader = reader.open()
        bans = sorted(self._reader, key=lambda ban: _place(ban.address))
        return _Snapshot(bans, [_place(ban.address) for ban in bans], began, time.monotonic() - began)


def _place(address: Address) -> _Place:
    """Where an address is in the order: version, number, length of the prefix."""
    if isinstance(address, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return address.version, int(address.network_address), address.prefixlen
    return address.version, int(address), address.max_prefixlen


def _place_of(text: str) -> _Place:
    """Of an address that a client gives; raises InvalidAddressError."""
    read_address(text)
    try:
        return _place(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise InvalidAddressError(text, str(error)) from None
