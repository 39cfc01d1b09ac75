"""Which rules the opening packets will meet, before they are sent: what of it cannot be undone, and what they count.

The walk itself is in C (csrc/xtables_walk.c); what it knows of each match and target stands in two tables of data
there. A *probe* is one opening packet, packed as struct nfk_probe (csrc/probe.h); the conntrack world makes them, two
for each flow.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

import attrs

from nfkeep.xtables._ffi import WalkHandle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.model import Family
    from nfkeep.xtables.image import Image

_WALKED = struct.Struct("=6B2xII32s")  # struct nfk_walked


class Outcome(enum.IntEnum):
    """enum nfk_outcome: where a packet's way ends."""

    NO_PACKET = 0
    REACHED_SINK = 1
    DROPPED_BEFORE = 2
    UNCERTAIN = 3


class Answer(enum.IntEnum):
    """Whether a rule matches, as `Walk.tell` takes it."""

    NO = 0
    YES = 1
    NOT_TOLD = 2


@attrs.frozen(slots=True)
class Hazard:
    """A rule that leaves traces which cannot be undone, and the probes that it is the first such rule for.

    `extension`: the match or target, or "too many ways" where the walk gave up. `certain`: it would be met by each of
    them; otherwise it might be. `entry`: as in `Image.places()`.
    """

    table: str
    entry: int
    extension: str
    certain: bool
    probes: tuple[int, ...]


@attrs.frozen(slots=True)
class Walked:
    """What becomes of each probe, by its index: an `Outcome`, whether all of its way is certain, and the hazards.

    A certain way is counted exactly; of another one the rules up to the first doubt are. `lost`: on some way the packet
    goes where the walk does not follow it: into a queue, say, or past a translation that it needs.
    """

    outcomes: bytes
    certain: bytes
    lost: bytes
    hazards: tuple[Hazard, ...]


@attrs.frozen(slots=True)
class Counted:
    """By entry of a table: what the probes raise its counters by, and how many have their first doubt there.

    `possible`: how often, at the most, they match it beyond `packets`, in or behind a doubt.
    """

    packets: Sequence[int]
    bytes: Sequence[int]
    doubts: Sequence[int]
    possible: Sequence[int]


class Walk:
    """The tables that opening packets pass, as they are now. Owns C memory until `close()`.

    Not for the table `nat`: entries of opening packets have their translations already. What the walk assumes: no rule
    of `ip rule` sends marked packets elsewhere, as the flows were placed by routes without marks.
    """

    def __init__(self, family: Family) -> None:
        self._handle = WalkHandle(family)
        self._images: list[Image] = []

    def add(self, image: Image, priority: int, *, watched: bool = False) -> None:
        """Add a table with the priority of its hooks; packets end behind the `watched` one.

        Raises ValueError for an image that no kernel would have, and for `nat`.
        """
        if image.name == "nat":
            raise ValueError("opening packets do not pass the table nat")
        self._handle.add(image, priority, watched=watched)
        self._images.append(image)

    def walk(self, probes: bytes, times: Sequence[int] | None = None) -> Walked:
        """Walk the probes; with `times`, count each so often. Two of one flow stand together, the reply second.

        Raises ValueError for probes of another family.
        """
        packed = self._handle.walk(probes, times)
        size = _WALKED.size
        kinds = packed[2::size]
        found: dict[tuple[str, int, str, int], list[int]] = {}
        for index in (i for i, kind in enumerate(kinds) if kind) if any(kinds) else ():
            _, _, kind, _, table, _, entry, _, name = _WALKED.unpack_from(packed, index * size)
            extension = name.split(b"\0")[0].decode(errors="replace")
            found.setdefault((self._images[table].name, entry, extension, kind), []).append(index)
        hazards = tuple(
            Hazard(table, entry, extension, kind == 2, tuple(indexes))
            for (table, entry, extension, kind), indexes in found.items()
        )
        return Walked(packed[0::size], packed[1::size], packed[3::size], hazards)

    def tally(self, probes: bytes) -> None:
        """Count the flows of each key at the watched table's limits on connections, whose lists are empty now.

        Those limits are answered from then on wherever these flows are too few to exceed them. Raises ValueError.
        """
        self._handle.tally(probes)

    def counted(self, table: str) -> Counted:
        """What was counted since the beginning or `zero()`."""
        return Counted(*self._handle.counters(self._number(table)))

    def zero(self) -> None:
        """Forget what was counted."""
        self._handle.zero()

    def tell(self, table: str, answers: Iterable[int]) -> None:
        """By entry an `Answer`: what is found out about rules where nobody can tell it beforehand."""
        self._handle.tell(self._number(table), bytes(answers))

    def settle(
        self,
        after: Sequence[Image],
        probes: bytes,
        times: Sequence[int],
        *,
        ours: Collection[str] = (),
        all_arrived: bool = False,
    ) -> Walked:
        """Walk and count again with what the counters tell afterwards.

        `after`: tables as they are once the packets have passed, no one replaced since it was added; whatever was sent
        in between is in their counters. A rule whose counter has not risen has matched none of the packets: that is
        certain whoever else sent some. In the tables `ours`, where the caller knows that only these packets can have
        raised the rules in doubt, one that has risen as often as the packets can have matched it at the most has
        matched each time. If the packets have `all_arrived` at their end, none has matched a rule that drops. What is
        in between stays a doubt; if some packet is `lost` so does all that has risen, as nobody knows what else it
        meets.
        """
        if all_arrived:
            self._handle.all_arrive()
        rises = {image.name: _rises(self._images[self._number(image.name)], image) for image in after}
        answers = {name: [Answer.NOT_TOLD if rise else Answer.NO for rise in rises[name]] for name in rises}
        while True:
            for name, told in answers.items():
                self.tell(name, told)
            self.zero()
            walked = self.walk(probes, times)
            found = False
            for name in [] if any(walked.lost) else [name for name in rises if name in ours]:
                counted = self.counted(name)
                for at, (rise, packets, possible) in enumerate(
                    zip(rises[name], counted.packets, counted.possible, strict=True)
                ):
                    if possible and rise == packets + possible and answers[name][at] is not Answer.YES:
                        answers[name][at] = Answer.YES
                        found = True
            if not found:
                return walked

    def close(self) -> None:
        """Free the C memory; calling it again does nothing."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _number(self, table: str) -> int:
        for number, image in enumerate(self._images):
            if image.name == table:
                return number
        raise ValueError(f"the table {table} is not among those walked")


def _rises(before: Image, after: Image) -> list[int]:
    return [now.packets - then.packets for now, then in zip(after.counters(), before.counters(), strict=True)]
