"""How much each user may do: token buckets for how often, shares for how many bans are in force.

Users are told apart by uid, so that a program gets no more by opening more connections or starting more processes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Hashable, Iterable
from typing import TypeAlias

import attrs

from nfkeep.bans.values import Kind

Key: TypeAlias = tuple[Kind, bytes]
"""A host or network, however it was written."""


@attrs.frozen(slots=True)
class Rate:
    """So many a second in the long run, and at most `burst` at once."""

    per_second: float
    burst: float


class Buckets:
    """A token bucket for each user, or what else is told apart; full at first. Times are those of a steady clock."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._levels: dict[Hashable, tuple[float, float]] = {}

    def take(self, whose: Hashable, now: float, tokens: float = 1.0) -> float:
        """Take tokens and return 0.0; or take none, and return in how many seconds there are enough (inf: never)."""
        rate = self.rate
        level, since = self._levels.get(whose, (rate.burst, now))
        level = min(rate.burst, level + (now - since) * rate.per_second)
        if level >= tokens:
            if len(self._levels) >= _MANY:
                self._forget_full(now)
            self._levels[whose] = level - tokens, now
            return 0.0
        return (tokens - level) / rate.per_second if tokens <= rate.burst else math.inf

    def _forget_full(self, now: float) -> None:
        rate = self.rate
        self._levels = {
            whose: (level, since)
            for whose, (level, since) in self._levels.items()
            if level + (now - since) * rate.per_second < rate.burst
        }


class Shares:
    """Which bans of one list are whose, so that nobody has more than `most` in force at a time.

    Who bans an address that is banned already takes that ban over. It is not kept on disk: a new start forgets whose
    bans are whose.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._owners: dict[Key, tuple[int, float]] = {}
        self._counts: dict[int, int] = {}
        self._ends: list[tuple[float, Key]] = []

    def excess(self, uid: int, keys: Collection[Key], now: float) -> int:
        """How many bans too many the user would have with all of `keys`; 0 if there is room."""
        self._expire(now)
        new = sum(self._owners.get(key, (None,))[0] != uid for key in {*keys})
        return max(0, self._counts.get(uid, 0) + new - self.most)

    def put(self, uid: int, bans: Iterable[tuple[Key, float]]) -> None:
        """Note bans of the user, each with the time that it ends at (inf: never)."""
        for key, end in bans:
            self.drop(key)
            self._owners[key] = uid, end
            self._counts[uid] = self._counts.get(uid, 0) + 1
            if end != math.inf:
                heapq.heappush(self._ends, (end, key))
        if len(self._ends) > 2 * len(self._owners) + _MANY:  # most of them renewed since
            self._ends = [(end, key) for key, (_, end) in self._owners.items() if end != math.inf]
            heapq.heapify(self._ends)

    def drop(self, key: Key) -> None:
        """Forget one ban, whoever made it."""
        owner = self._owners.pop(key, None)
        if owner is not None:
            self._counts[owner[0]] -= 1
            if not self._counts[owner[0]]:
                del self._counts[owner[0]]

    def clear(self) -> None:
        """Forget all: the list was found gone."""
        self._owners.clear()
        self._counts.clear()
        self._ends.clear()

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, key = heapq.heappop(self._ends)
            owner = self._owners.get(key)
            if owner is not None and owner[1] == end:  # not renewed since
                self.drop(key)


_MANY = 1024
