"""A list of -m recent as sets of nft: what all rules on it need, kept in step by every rule that adds or removes.

The kernel keeps an address's last time stamps and counts those that are young enough (recent_mt() in xt_recent.c).
Elements of nft forget themselves by a timeout instead, so there is one set for each age that some rule asks about. For
N hits each of N slots holds one hit in turn, and an address is in the set of the slot that comes next: all slots are
alive exactly if the Nth last hit is young enough. Without an age a set for each count suffices, as counts only grow.

What a rule deletes stays in a set's memory until the collector comes by, once a second, and too many of one key make
the kernel refuse another one (rhashtable_insert_rehash()). So the slots are not taken in turn any more while an address
has N hits in a quarter of a second: all of them are renewed then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.names import identifier
from nfkeep.migrate.parts import AnyOf, Statement, Test
from nfkeep.migrate.rates import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension

DEFAULT_NAME = "DEFAULT"
ACTIONS = ("--set", "--rcheck", "--update", "--remove")
SIZE = 65535
SIZE_OF_SLOT = 16384
_MOST_HITS = 256
_LONGEST_NAME = 220
_EVERY_BIT = {"255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


@attrs.frozen(slots=True, order=True)
class Age:
    """What a rule asks: so many hits, at most so many seconds old (0: of any age)."""

    seconds: int
    hits: int


@attrs.frozen(slots=True)
class Asked:
    """One match of recent, read. A mask of every bit is no mask."""

    name: str
    action: str
    negated: bool
    age: Age
    mask: str
    reap: bool

    @classmethod
    def of(cls, match: Extension) -> Asked:
        """Read the options of a match."""
        action = match.option(*ACTIONS)
        if action is None:
            raise Lost("it says neither --set nor --rcheck, --update or --remove")

        def value(option: str, default: str) -> str:
            found = match.option(option)
            return found.value if found else default

        age = Age(int(value("--seconds", "0")), max(1, int(value("--hitcount", "0"))))
        reap = match.option("--reap") is not None
        name = value("--name", DEFAULT_NAME)
        mask = value("--mask", "")
        return cls(name, action.name, action.negated, age, "" if mask in _EVERY_BIT else mask, reap)

    @property
    def checks(self) -> bool:
        """Whether it asks for hits."""
        return self.action in ("--rcheck", "--update")


@attrs.frozen(slots=True)
class RecentList:
    """The sets of one list, for the address that `key` has of a packet."""

    name: str
    key: str
    ages: tuple[Age, ...]
    """What rules ask, but for mere presence."""

    keeps_addresses: bool
    """Whether there is a set of all addresses."""

    @classmethod
    def of(cls, name: str, key: str, uses: Sequence[Asked]) -> RecentList:
        """What a list has to consist of for all its uses."""
        if len({each.mask for each in uses}) > 1:
            raise Lost(
                f"the rules on the list {name} have different masks; the kernel takes that of the rule loaded first",
                "write the same --mask in all of them",
            )
        ages = sorted({each.age for each in uses if each.checks} - {_PRESENT})
        if ages and max(age.hits for age in ages) > _MOST_HITS:
            raise Lost(f"more than {_MOST_HITS} hits would take too many sets")
        presence = any(
            each.action == "--remove"
            or (each.checks and each.age == _PRESENT)
            or (each.action == "--update" and each.negated)
            for each in uses
        )
        return cls(name, key, tuple(ages), presence or not ages)

    def known(self, context: Context) -> bool:
        """Whether the sets are in the table already."""
        return context.objects.known(self._sets()[0][0])

    def declare(self, context: Context) -> None:
        """Have the sets in the table."""
        kind = "ipv6_addr" if context.v6 else "ipv4_addr"
        for set_name, size, timeout in self._sets():
            if len(set_name) > _LONGEST_NAME:
                raise Lost(f"the list's name {self.name} is too long for nft")
            flags = ("flags dynamic,timeout", f"timeout {duration(timeout)}") if timeout else ("flags dynamic",)
            context.objects.declare("set", set_name, (f"type {kind}", f"size {size}", *flags))

    def test(self, age: Age) -> tuple[Simple, ...]:
        """What holds of an address that has these hits."""
        if age == _PRESENT:
            return (self._in(self._present),)
        if age.hits == 1:
            return (self._in(self._plain(age)),)
        if not age.seconds:
            return (self._in(self._slot(age, age.hits)),)
        return tuple(self._in(self._slot(age, number)) for number in range(1, age.hits + 1))

    def stamp(self, *, known_only: bool = False) -> tuple[Part, ...]:
        """Add a hit; with `known_only` not to an address that is not in the list."""
        simple = [self._update(self._present)] if self.keeps_addresses else []
        simple += [self._update(self._plain(age)) for age in self.ages if age.hits == 1]
        stranger: list[tuple[Simple, ...]] = [(self._in(self._present, negated=True),)] if known_only else []
        parts: list[Part] = [AnyOf((*stranger, tuple(simple)))] if stranger and simple else [*simple]
        for age in self.ages:
            if age.hits > 1:
                ways = self._ring(age) if age.seconds else self._counts(age)
                parts.append(AnyOf((*stranger, *ways, (self._anyway(),))))
        return tuple(parts)

    def remove(self) -> tuple[Simple, ...]:
        """Whether an address is in the list, and then no longer."""
        names = [name for name, _, _ in self._sets()]
        return (self._in(self._present), *(self._delete(name) for name in names))

    def names(self) -> list[str]:
        """The sets with the addresses themselves, as nft has their names."""
        others = {self._next(age, n) for age in self.ages for n in range(2, age.hits + 1)}
        others |= {self._fast(age) for age in self.ages}
        return [identifier(name) for name, _, _ in self._sets() if name not in others]

    def places(self, ages: Sequence[float]) -> Iterator[tuple[str, int, float]]:
        """Where an address stands that was seen so many seconds ago each time, the latest first.

        Yields sets with their timeout and what is left of it, in seconds; both 0 in a set without.
        """
        if self.keeps_addresses:
            yield identifier(self._present), 0, 0.0
        for age in self.ages:
            hits = [each for each in ages if not age.seconds or each < age.seconds][: age.hits]
            if not age.seconds:
                yield from ((identifier(self._slot(age, n)), 0, 0.0) for n in range(1, len(hits) + 1))
            elif age.hits == 1:
                yield from ((identifier(self._plain(age)), age.seconds, age.seconds - each) for each in hits)
            elif hits:
                for number, each in enumerate(reversed(hits), 1):
                    yield identifier(self._slot(age, number)), age.seconds, age.seconds - each
                if len(hits) < age.hits:
                    yield identifier(self._next(age, len(hits) + 1)), age.seconds + 1, age.seconds + 1 - hits[0]

    def seen(self, left: Mapping[str, float]) -> tuple[tuple[float, ...], int]:
        """The way back: by the sets that an address is in, how many seconds ago its last hits were, the latest first.

        And how many hits it has had at the least. `left`: what is left in each, in seconds; anything in a set without
        a timeout.
        """
        latest: list[float] = []
        least = int(identifier(self._present) in left)
        for age in self.ages:
            slots = [self._plain(age)] if age.hits == 1 else [self._slot(age, n) for n in range(1, age.hits + 1)]
            there = [number for number, slot in enumerate(map(identifier, slots), 1) if slot in left]
            least = max(least, len(there) if age.seconds else max(there, default=0))
            if age.seconds and len(there) >= len(latest):
                latest = sorted(age.seconds - left[identifier(slots[number - 1])] for number in there)
        return tuple(latest), least

    def _ring(self, age: Age) -> list[tuple[Simple, ...]]:
        """The next slot gets the hit, and the one behind it is next. The address is in no set while that is slot 1."""
        ways: list[tuple[Simple, ...]] = []
        for number in range(age.hits, 1, -1):
            move: list[Simple] = [self._in(self._next(age, number)), self._delete(self._next(age, number))]
            if number < age.hits:
                move.append(self._update(self._next(age, number + 1)))
            ways.append((*move, self._update(self._slot(age, number))))
        ways.append((self._update(self._next(age, 2)), self._update(self._slot(age, 1))))
        rate = f"limit rate over {4 * age.hits}/second burst {age.hits} packets"
        fast = Statement(f"update @{identifier(self._fast(age))} {{ {self.key} {rate} }}")
        return [(fast, *(self._update(self._slot(age, number)) for number in range(1, age.hits + 1))), *ways]

    def _counts(self, age: Age) -> list[tuple[Simple, ...]]:
        """An address is in the sets of all counts that it has reached."""
        ways: list[tuple[Simple, ...]] = [(self._in(self._slot(age, age.hits)),)]
        for number in range(age.hits - 1, 0, -1):
            ways.append((self._in(self._slot(age, number)), self._update(self._slot(age, number + 1))))
        return [*ways, (self._update(self._slot(age, 1)),)]

    def _sets(self) -> list[tuple[str, int, int]]:
        """All sets as name, size and timeout (0: none)."""
        sets = [(self._present, SIZE, 0)] if self.keeps_addresses else []
        for age in self.ages:
            if age.hits == 1:
                sets.append((self._plain(age), SIZE, age.seconds))
                continue
            sets += [(self._slot(age, number), SIZE_OF_SLOT, age.seconds) for number in range(1, age.hits + 1)]
            if age.seconds:  # a second more: which slot is next has to outlive what is in the slots
                sets += [(self._next(age, n), SIZE, age.seconds + 1) for n in range(2, age.hits + 1)]
                sets.append((self._fast(age), SIZE_OF_SLOT, 1))
        return sets

    @property
    def _present(self) -> str:
        return f"recent-{self.name}"

    def _plain(self, age: Age) -> str:
        return f"recent-{self.name}-{age.seconds}s"

    def _slot(self, age: Age, number: int) -> str:
        return f"recent-{self.name}-{f'{age.seconds}s-' if age.seconds else ''}hit-{number}-of-{age.hits}"

    def _next(self, age: Age, number: int) -> str:
        return f"recent-{self.name}-{age.seconds}s-next-{number}-of-{age.hits}"

    def _fast(self, age: Age) -> str:
        return f"recent-{self.name}-{age.seconds}s-fast-{age.hits}"

    def _in(self, name: str, *, negated: bool = False) -> Test:
        return Test(self.key, (f"@{identifier(name)}",), negated)

    def _anyway(self) -> Test:
        """What is always so: a hit that finds no room is no reason for the rule not to match."""
        version = "6" if self.key.startswith("ip6") else "4"
        return Test(f"{self.key.split()[0]} version", (version,))

    def _update(self, name: str) -> Statement:
        return Statement(f"update @{identifier(name)} {{ {self.key} }}")

    def _delete(self, name: str) -> Statement:
        return Statement(f"delete @{identifier(name)} {{ {self.key} }}")


_PRESENT = Age(0, 1)
