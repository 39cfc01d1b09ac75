"""The lists that are served, each with what its users may do in it, and how often.

An operation takes the kernel microseconds and is done at once; what may take longer is done in threads.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

from nfkeep import ListGoneError
from nfkeep.service.config import ListConfig
from nfkeep.service.limits import Buckets
from nfkeep.service.listing import Listing
from nfkeep.service.operations import Body, Operations
from nfkeep.service.peer import Peer
from nfkeep.service.protocol import Operation, Refusal, Request, Trouble

_log = logging.getLogger("nfkeep.service")


class ServedList:
    """One list; everything but the work itself is for the thread of the event loop."""

    def __init__(self, config: ListConfig) -> None:
        self.config = config
        self._bans = config.make()
        self._listing = Listing(config.make)
        self._buckets = Buckets(config.rate)
        self._operations = Operations(config, self._bans)
        self._thread: ThreadPoolExecutor | None = None
        self._is_open = False

    def open(self) -> None:
        """Make or adopt the list; if it is open, put back what somebody removed of it. Raises as `BanList.open`."""
        if self._is_open and not self._bans.exists():
            self._reopen()
        self._bans.open()
        self._is_open = True
        if self._bans.policy.kill and self._thread is None:  # each ban looks through the live connections
            self._thread = ThreadPoolExecutor(1, "nfkeepd")

    def close(self) -> None:
        """Let go of the kernel; every ban stays in force. Idempotent."""
        self._is_open = False
        if self._thread is not None:
            self._thread.shutdown(wait=False)
        self._listing.close()
        self._bans.close()

    def admits(self, peer: Peer, operation: Operation) -> bool:
        """Whether a client may ask for this here."""
        named = peer.uid in self.config.users or not peer.groups.isdisjoint(self.config.groups)
        return named and operation in self.config.operations

    def perform(self, request: Request, uid: int) -> Body | Awaitable[Body]:
        """Do what a client asks for that may; raises Refusal and what BanList does, now or when awaited."""
        tokens = max(1, len(request.items))
        pause = self._buckets.take(uid, time.monotonic(), tokens)
        if pause == math.inf:
            burst = self.config.rate.burst
            raise Refusal(Trouble.TOO_LARGE, f"{tokens} addresses in one request; this list takes {burst:.0f} at once")
        if pause:
            raise Refusal(Trouble.TOO_FAST, f"this list takes no more from you now; come back in {pause:.3f} s")
        if request.operation is Operation.BANS:
            return self._page(request)
        work = functools.partial(self._retried, request, uid)
        return work() if self._thread is None else asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _retried(self, request: Request, uid: int) -> Body:
        try:
            return self._operations.do(request, uid)
        except ListGoneError:
            self._reopen()
            return self._operations.do(request, uid)

    async def _page(self, request: Request) -> Body:
        try:
            return await self._listing.page(request.after, request.limit)
        except ListGoneError:
            if self._thread is None:
                self._reopen()
            else:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._reopen)
            return await self._listing.page(request.after, request.limit)

    def _reopen(self) -> None:
        if not self._is_open:  # another configuration has taken over while this was being done
            raise ListGoneError(self.config.name)
        self._bans.open()
        self._operations.forget()
        _log.warning("list %s was gone: made again, without the bans that were in it", self.config.name)
