"""Lists of the recent match, on the way back: who was seen while nft had the rules, and who was taken off.

What a list is told through its file it stamps with the present moment (recent_mt_proc_write() in xt_recent.c): every
hit that came meanwhile is there again, in the right order, but as new as the way back.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live.carried import carried_lists
from nfkeep.migrate.live.stamps import read_list
from nfkeep.model import Family
from nfkeep.nft.elements import read_set
from nfkeep.xtables import recent
from nfkeep.xtables.jiffies import KernelClock, read_clock

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from nfkeep.migrate.recent import RecentList
    from nfkeep.nft.elements import ElementSocket

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NO_CLOCK = KernelClock(0, 1)
"""By which everybody was seen just now: only who was taken off cannot be told then."""
_LENGTH = {Family.IPV4: 4, Family.IPV6: 16}


class ReturnedLists:
    """The lists that the rules of a text name, and what was told them.

    `continuing`: the tables of nft in which whoever is missing was taken off. `had`: who was in each list when nft took
    over, if they are the same lists yet. `bring_back` may be called again: it brings what has come since.
    """

    def __init__(
        self, opened: ElementSocket, text: str, family: Family, continuing: Container[str],
        had: Mapping[str, Iterable[str]],
    ) -> None:  # fmt: skip
        self._opened, self._family, self._continuing = opened, family, continuing
        self._had = {name: frozenset(map(ipaddress.ip_address, addresses)) for name, addresses in had.items()}
        self._lists = list(carried_lists(text, family)) if text else []
        self._told = dict.fromkeys([name for name, _, _ in self._lists], _Told())

    def bring_back(self, since_seconds: float | None) -> None:
        """Tell the lists what has come since so many seconds; None: since the kernel was started."""
        clock = read_clock() or _NO_CLOCK
        for name, table, sets in self._lists:
            if (ages := read_list(name, clock)) is None:  # no rule names it any more
                continue
            listed = {ipaddress.ip_address(address): stamps for address, stamps in ages.items()}
            before = {a: s for a, s in listed.items() if a.version == (6 if self._family is Family.IPV6 else 4)}
            there = self._members(table, sets)
            off = self._had.get(name, frozenset()) - before.keys() - self._told[name].gone
            told = commands(sets, there, before, since_seconds, removals=table in self._continuing, taken_off=off)
            for sign, address in told:
                with open(f"{recent.DIRECTORY}/{name}", "w", encoding="ascii") as file:  # it takes one each time
                    file.write(f"{sign}{address}\n")
            self._told[name] = self._told[name].also(told, before, off & there.keys())

    def outcomes(self) -> Iterator[Outcome]:
        """What came of it."""
        room = recent.capacity().size
        for name, told in self._told.items():
            words = [
                f"{len(told.new)} addresses that came meanwhile" if told.new else "",
                f"{len(told.again)} that were seen again" if told.again else "",
                "as if they were seen now" if told.new or told.again else "",
                f"{len(told.gone)} taken off" if told.gone else "",
                f"{len(told.left_out)} left out that somebody has taken off" if told.left_out else "",
            ]
            if not any(words):
                continue
            detail = ", ".join(filter(None, words))
            if (number := recent.entries(name)) is not None and number >= room and told.new:
                detail += f"; the list has room for {room} and has forgotten those seen longest ago"
            yield Outcome("recent", f"{self._family}, list {name}", Fidelity.APPROXIMATED, detail)

    def _members(self, table: str, sets: RecentList) -> dict[Address, dict[str, float]]:
        """By address, the sets that it is in, with the seconds that it has left there."""
        found: dict[Address, dict[str, float]] = {}
        for name in sets.names():
            # Somebody may have deleted the set, or it was not there yet.
            for each in read_set(self._opened, self._family.value, table, name, _LENGTH[self._family]) or ():
                found.setdefault(ipaddress.ip_address(each.key), {})[name] = each.expires_ms / 1000
        return found


def commands(
    sets: RecentList,
    there: Mapping[Address, Mapping[str, float]],
    listed: Mapping[Address, tuple[float, ...]],
    since_seconds: float | None,
    *,
    removals: bool,
    taken_off: Container[Address] = (),
) -> list[tuple[str, Address]]:
    """What to tell a list: `+` for each hit of an address since then, the oldest first; `-` for one taken off.

    `listed`: how long ago each address of the list was seen, the latest first. `taken_off`: those that somebody has
    taken off the list since then.
    """
    hits: list[tuple[float, Address]] = []
    for address, left in there.items():
        ages, least = sets.seen(left)
        young = 0 if since_seconds is None else sum(age < since_seconds for age in ages)
        if address in listed:
            missing = max(young, least - len(listed[address]))
        else:
            missing = young if address in taken_off else max(least, len(ages), 1)
        latest = [*ages, *[0.0] * max(0, missing - len(ages))]
        hits += [(age, address) for age in latest[: max(0, missing)]]
    told = [("+", address) for _, address in sorted(hits, key=lambda each: -each[0])]
    if removals and sets.keeps_addresses and since_seconds is not None:
        old = (address for address, stamps in listed.items() if stamps[0] > since_seconds)
        told += [("-", address) for address in old if address not in there]
    return told


@attrs.frozen(slots=True)
class _Told:
    """Addresses that were new to a list, that it had already, that were taken off, and that it had once."""

    new: frozenset[Address] = frozenset()
    again: frozenset[Address] = frozenset()
    gone: frozenset[Address] = frozenset()
    left_out: frozenset[Address] = frozenset()

    def also(self, told: list[tuple[str, Address]], before: Container[Address], off: frozenset[Address]) -> _Told:
        """With what was told it another time, before which these were listed, and those that nft alone has yet."""
        added = {address for sign, address in told if sign == "+"}
        new = self.new | {address for address in added if address not in before}
        gone = self.gone | {address for sign, address in told if sign == "-"}
        return _Told(new, (self.again | added) - new, gone - added, (self.left_out | off) - new)
