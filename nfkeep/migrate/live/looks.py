"""The rules of nft and of iptables looked at several times while both are in force, to find out later what both count.

Each look is at nft's, at iptables', and at nft's again: of a rule that has counted nothing in between it tells both
counters of one moment. There is no time then to understand what is read.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.model import Counters
from nfkeep.nft.rule_counters import list_rules, seen
from nfkeep.xtables.tables import read_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nfkeep.migrate.live.parking import Name
    from nfkeep.model import Family
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.xtables.image import Image

_SECONDS = 0.05
"""A rule that sixty packets a second meet is known by then; new connections wait for it."""

Listing = dict[tuple["Family", str], list[bytes]]
"""By family and table of nft: its rules, as the kernel lists them."""


@attrs.frozen(slots=True)
class _Look:
    before: Listing
    images: dict[Name, Image]
    after: Listing


class Looks:
    """Looks at tables of nft, by family, and of iptables: `begin` well before, `look` while both are in force."""

    def __init__(self, opened: BatchSocket, tables: Mapping[Family, Sequence[str]]) -> None:
        self._opened, self._tables = opened, tables
        self._begun: Listing = {}
        self._looks: list[_Look] = []
        self._places: dict[tuple[Family, str], dict[int, int]] = {}

    def begin(self) -> None:
        """See what nft has counted. Raises NfkeepError."""
        self._begun = self._list()

    def look(self, names: Sequence[Name]) -> None:
        """Look at these tables again and again for some milliseconds, unless nothing has been counted since."""
        ends = time.monotonic() + _SECONDS
        with contextlib.suppress(NfkeepError):
            while not self._looks or time.monotonic() < ends:
                before = self._list()
                images = {name: read_image(*name) for name in names}
                after = self._list()
                if before == after == self._begun:
                    return
                self._looks.append(_Look(before, images, after))

    def of(
        self, name: Name, place: tuple[str, int], rules: Sequence[tuple[str, int]]
    ) -> list[tuple[Counters, Counters]]:
        """What a rule of iptables had counted, and what those of nft, at each moment that is known.

        `place`: its chain and position, from 1; `rules`: table and handle of each of nft that counts for it.
        """
        found = []
        for look in self._looks:
            counted = [self._counted(look, name[1], *rule) for rule in rules]
            image = look.images.get(name)
            if image is not None and counted and None not in counted:
                both = {(chain, position): each for chain, position, each in image.counted()}
                if place in both:
                    known = [each for each in counted if each is not None]
                    nft = Counters(sum(each.packets for each in known), sum(each.bytes for each in known))
                    found.append((both[place], nft))
        return found

    def _counted(self, look: _Look, family: Family, table: str, handle: int) -> Counters | None:
        """What a rule of nft had counted before and after it, if that was the same."""
        before, after = (each.get((family, table), []) for each in (look.before, look.after))
        if (family, table) not in self._places:
            rules = seen(family.value, before)
            self._places[family, table] = {rule.handle: at for at, rule in enumerate(rules)}
        at = self._places[family, table].get(handle)
        if at is None or at >= min(len(before), len(after)) or before[at] != after[at]:
            return None
        [rule] = seen(family.value, [before[at]])
        return rule.counters if rule.handle == handle else None

    def _list(self) -> Listing:
        return {
            (family, table): list_rules(self._opened, family.value, table)
            for family, tables in self._tables.items()
            for table in tables
        }
