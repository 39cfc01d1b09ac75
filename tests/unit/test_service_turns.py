"""Users of nfkeepd take turns: however much one of them asks for, another one waits for one request of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs

from nfkeep.service.limits import Rate
from nfkeep.service.turns import Turns

FREE = Rate(1e9, 1e9)


@attrs.define(eq=False)
class Asker:
    """A connection with so many requests; `then` is called in its turn."""

    uid: int
    turns: Turns
    log: list[int]
    left: int
    then: Callable[[], None] = lambda: None

    def take_turn(self) -> None:
        """One request."""
        self.log.append(self.uid)
        self.left -= 1
        self.then()
        if self.left:
            self.turns.add(self)


def served(fill: Callable[[Turns, list[int]], None], rate: Rate = FREE, count: int = 0) -> list[int]:
    """Whose request was done when, up to `count` of them."""

    async def main() -> list[int]:
        log: list[int] = []
        fill(Turns(asyncio.get_running_loop(), rate), log)
        while len(log) < count:
            await asyncio.sleep(0)
        return log

    return asyncio.run(main())


def test_users_take_turns() -> None:
    """Fifty connections of one user and one of another: each user has every second request."""

    def fill(turns: Turns, log: list[int]) -> None:
        for _ in range(50):
            turns.add(Asker(1, turns, log, 100))
        turns.add(Asker(2, turns, log, 10))

    assert served(fill, count=5010)[:20] == [1, 2] * 10


def test_connections_of_a_user_take_turns() -> None:
    """Among the connections of one user it goes round as well."""
    order: list[str] = []

    def fill(turns: Turns, log: list[int]) -> None:
        for name in "abc":
            turns.add(Asker(1, turns, log, 2, lambda name=name: order.append(name)))  # type: ignore[misc]

    served(fill, count=6)
    assert order == [*"abcabc"]


def test_who_comes_late_waits_for_one_request_of_each() -> None:
    """A request that arrives while others have long queues is next but one for each of them."""

    def fill(turns: Turns, log: list[int]) -> None:
        late = Asker(9, turns, log, 1)
        first = Asker(1, turns, log, 100, lambda: turns.add(late) if len(log) == 31 else None)
        turns.add(first)
        for uid in (2, 3):
            turns.add(Asker(uid, turns, log, 100))

    log = served(fill, count=301)
    assert log.index(9) <= 31 + 3


def test_the_loop_has_its_turn_too() -> None:
    """Work without end does not keep the event loop from what else there is."""

    async def main() -> int:
        log: list[int] = []
        turns = Turns(asyncio.get_running_loop(), FREE)
        turns.add(Asker(1, turns, log, 1_000_000_000))
        for _ in range(10):
            await asyncio.sleep(0)
        turns.discard(Asker(1, turns, log, 1))  # not in line: nothing happens
        return len(log)

    assert asyncio.run(main()) < 1_000_000


def test_who_asks_too_much_waits_and_nobody_else_does() -> None:
    """Beyond the rate a user's requests are done later, all of them; another user's are done at once."""

    def fill(turns: Turns, log: list[int]) -> None:
        turns.add(Asker(1, turns, log, 25))
        turns.add(Asker(2, turns, log, 10))

    log = served(fill, Rate(200, 10), count=35)
    assert log[:20] == [1, 2] * 10
    assert log[20:] == [1] * 15


def test_who_has_gone_is_not_called() -> None:
    """A connection that leaves the line, waiting or resting, has no turn any more."""

    async def main() -> list[int]:
        log: list[int] = []
        turns = Turns(asyncio.get_running_loop(), Rate(100, 1))
        askers = [Asker(uid, turns, log, 5) for uid in (1, 2, 3)]
        for asker in askers:
            turns.add(asker)
        turns.discard(askers[1])
        while len(log) < 2:
            await asyncio.sleep(0)
        turns.discard(askers[2])
        while askers[0].left:
            await asyncio.sleep(0.001)
        return log

    assert asyncio.run(main()) == [1, 3, 1, 1, 1, 1]
