"""What the rules of iptables had counted in the moment in which those of nft came into force beside them.

From that moment on nft counts every packet, and iptables only those that nft lets pass: hooks that were made last come
first (nf_hook_entries_grow() in net/netfilter/core.c). Before it, iptables alone has counted. So what its rules had
counted then and what nft has counted since are the whole, but for the opening packets, which nft counts as well, and
which are known. The moment itself lies between two readings; a rule that is the same in both leaves no doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.live.counting import added, final_counters, less
from nfkeep.migrate.live.parking import OWN
from nfkeep.xtables.tables import read_image

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from nfkeep.keep.passage import Off
    from nfkeep.migrate.live.counting import Where
    from nfkeep.migrate.live.parking import Name
    from nfkeep.model import Counters, Family
    from nfkeep.xtables.image import Image


@attrs.frozen(slots=True)
class Begun:
    """What rules and policies of one family had counted when nft began to: that at `least`, and that at the `most`.

    What nft's rules have got of that since is not in it. `opening`: where there are opening packets among what nft has
    counted since; None if that is not known.
    """

    least: Mapping[Where, Counters]
    most: Mapping[Where, Counters]
    opening: Mapping[Where, Counters] | None


class Beginning:
    """That moment, for some tables: `look` right before it and right after it. Counting again tells `taken_off`."""

    def __init__(self, names: Iterable[Name]) -> None:
        self._names = tuple(names)
        self._looks: list[list[Image]] = []
        self._opening: dict[Family, list[Image]] = {}
        self._doubtful: set[Family] = set()
        self._known: dict[Family, Mapping[Where, Counters]] = {}
        self._got: dict[Family, Mapping[Where, Counters]] = {}

    def look(self) -> None:
        """Read the counters. Raises NfkeepError."""
        self._looks.append([read_image(*name) for name in self._names])

    def read(self, family: Family, tables: Container[str]) -> list[Image]:
        """The counters of some of the tables as they are now. Raises NfkeepError."""
        return [read_image(*name) for name in self._names if name[1] is family and name[0] in tables]

    def is_sure(self, family: Family) -> bool:
        """Whether nothing was counted between the looks."""
        before, after = self._looked(family)
        return before == after

    def known(self, family: Family, known: Mapping[Where, Counters]) -> None:
        """Note what rules had counted at that moment: of those that are within what the looks say."""
        begun = self.begun(family)
        self._known[family] = {
            where: each
            for where, each in known.items()
            if where in begun.least and _between(begun.least[where], each, begun.most[where])
        }

    def taken_off(self, family: Family, off: Off | None) -> None:
        """Note what opening packets have raised counters by, in iptables, and in nft; None if that is not all known."""
        if off is None:
            self._doubtful.add(family)
        for image, counted in off or ():
            self._opening.setdefault(family, []).append(image.with_counters(counted.packets, counted.bytes))

    def got(self, family: Family, got: Mapping[Where, Counters]) -> None:
        """Note what rules of nft have got already of what was missing in them."""
        self._got[family] = got

    def begun(self, family: Family) -> Begun:
        """What is known of the rules of a family."""
        opening: dict[Where, Counters] = {}
        for image in self._opening.get(family, ()):
            counted = {where: each for where, each in final_counters([image], without=OWN).items() if each.packets}
            opening |= added(counted, opening)
        before, after = self._looked(family)
        if not before:
            return Begun({}, {}, None)
        least = final_counters(before, without=OWN)
        most = least if before == after else final_counters(after, without=OWN)
        if known := self._known.get(family):
            least, most = {**least, **known}, {**most, **known}
        if got := self._got.get(family):
            least, most = less(least, got), less(most, got)
        return Begun(least, most, None if family in self._doubtful else opening)

    def _looked(self, family: Family) -> tuple[list[Image], list[Image]]:
        """Its tables before and after; none if nobody has looked."""
        if len(self._looks) != 2:
            return [], []
        before, after = ([image for image in images if image.family is family] for images in self._looks)
        return before, after


def _between(least: Counters, each: Counters, most: Counters) -> bool:
    return least.packets <= each.packets <= most.packets and least.bytes <= each.bytes <= most.bytes
