"""Whose request is next: users take turns, one request each, however many connections and requests any of them has.

After a millisecond of work the event loop looks for new requests, so nobody waits for another one's queue to be empty.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from typing import Protocol

from nfkeep.service.limits import Buckets, Rate

_AT_ONCE_SECONDS = 0.001


class Member(Protocol):
    """A connection with a request that waits."""

    uid: int

    def take_turn(self) -> None:
        """Do one request; to do another one, get in line again. Raises nothing."""


class Turns:
    """The line, or rather one for each user. `rate`: requests of one user in a second; more of them wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: Rate) -> None:
        self._loop = loop
        self._pace = Buckets(rate)
        self._lines: OrderedDict[int, deque[Member]] = OrderedDict()
        self._resting: dict[int, deque[Member]] = {}
        self._is_due = False

    def add(self, member: Member) -> None:
        """Get in line; not to be called by one that is in line."""
        if member.uid in self._resting:
            self._resting[member.uid].append(member)
            return
        self._lines.setdefault(member.uid, deque()).append(member)
        self._call()

    def discard(self, member: Member) -> None:
        """Leave the line, if in it."""
        for lines in (self._lines, self._resting):
            if member in (line := lines.get(member.uid, ())):
                line.remove(member)  # type: ignore[union-attr]  # an empty tuple has no members
                if not line:
                    del lines[member.uid]

    def change_rate(self, rate: Rate) -> None:
        """From now on this rate."""
        if rate != self._pace.rate:
            self._pace = Buckets(rate)

    def _call(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        end = time.monotonic() + _AT_ONCE_SECONDS
        while self._lines and (now := time.monotonic()) < end:
            uid, line = self._lines.popitem(last=False)
            pause = self._pace.take(uid, now)
            if pause:
                self._resting[uid] = line
                self._loop.call_later(pause, self._wake, uid)
                continue
            member = line.popleft()
            if line:
                self._lines[uid] = line  # behind the other users
            member.take_turn()
        if self._lines:
            self._call()

    def _wake(self, uid: int) -> None:
        for member in self._resting.pop(uid, ()):
            self.add(member)
