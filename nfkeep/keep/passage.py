"""The way of the opening packets through the legacy tables: flows whose packet would leave traces that cannot be undone
stay out, and what the packets of the others have raised the rules' counters by is taken off again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from nfkeep.errors import CommitError, ConflictError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.xtables.tables import TABLES, TableHandle, in_use
from nfkeep.xtables.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.conntrack import Flows
    from nfkeep.model import Family
    from nfkeep.xtables.image import Image
    from nfkeep.xtables.walk import Counted, Hazard

Off: TypeAlias = "Sequence[tuple[Image, Counted]]"
"""Tables as they were before opening packets passed them, and what these have raised their counters by."""
TakenOff: TypeAlias = "Callable[[Family, Off | None], None]"
"""Told that of a family; None if it is not all known."""

_NOT_PASSED = "nat"  # entries are made with their translations done, so that table is not asked again


class Passage:
    """One run of opening packets behind the replace of one table. The caller has the xtables lock.

    `leave_out` before they are sent, `look` when they have passed, `take_off` in the end. `off`: what was taken off;
    None as long as what they met is not known, but for those of busy flows.
    """

    def __init__(self, family: Family, table: str) -> None:
        self._family = family
        self._table = table
        self._before = self._images()
        self._after: list[Image] = []
        self._probes = b""
        self.off: Off | None = None
        self._walk = Walk(family)
        for image in self._before:
            self._walk.add(image, TABLES[image.name].priority, watched=image.name == table)

    def leave_out(self, flows: Flows, *, is_new: bool) -> dict[str, int]:
        """Leave out flows whose packet would, or might, touch what cannot be put back: how many, by reason."""
        self._probes = flows.probes(is_new=is_new)
        self._walk.tally(self._probes)
        hazards = self._walk.walk(self._probes).hazards
        out: set[int] = set()
        reasons: dict[str, int] = {}
        for hazard in hazards:
            met = {probe // 2 for probe in hazard.probes} - out
            out |= met
            reason = self._name(hazard)
            if met:
                reasons[reason] = reasons.get(reason, 0) + len(met)
        flows.leave_out(sorted(out))
        return reasons

    def look(self) -> None:
        """Read the counters while the packets are the last that have raised those of the limits."""
        self._after = self._images()

    def take_off(self, flows: Flows, *, all_arrived: bool) -> list[Outcome]:
        """Subtract the packets from the counters of the rules that they have met.

        Of a packet whose way is in doubt it is known up to the first rule that nobody can decide: that is told. If
        `all_arrived`, no rule has dropped any. Of a flow that was too busy at first the last packet opened it; those
        before may have met other rules and stay in the counters, which is told, too. If rules have counted less than
        they should have, somebody has dropped packets before: then nothing is done.
        """
        sent = list(flows.sent())
        packets = sum(sent)
        if not packets:
            self.off = ()
            return []
        where = f"{self._family} {self._table}"
        if not self._same_rules():
            detail = f"{packets} opening packets are in them: another program changed tables without the lock"
            return [Outcome("counters", where, Fidelity.APPROXIMATED, detail)]
        last = [min(1, times) for times in sent]
        again = packets - sum(last)
        walked = self._walk.settle(self._after, self._probes, last, all_arrived=all_arrived)
        doubtful = sum(times for times, certain in zip(last, walked.certain, strict=True) if not certain)
        try:
            off = self._subtract()
        except (ConflictError, CommitError) as error:
            return [
                Outcome("counters", where, Fidelity.APPROXIMATED, f"{packets} opening packets are in them: {error}")
            ]
        if off is None:
            detail = f"{packets} opening packets, or fewer, are in the counters of the rules that they met"
            return [Outcome("counters", where, Fidelity.APPROXIMATED, detail)]
        self.off, details = None if doubtful else off, []
        if doubtful:
            details.append(
                f"up to {doubtful} opening packets are in the counters of rules behind one that nobody can decide"
            )
        if again:
            details.append(f"{again} opening packets of busy flows are in the counters of the rules that they met")
        return [Outcome("counters", where, Fidelity.APPROXIMATED, "; ".join(details))] if details else []

    def close(self) -> None:
        """Free the images. Idempotent."""
        self._walk.close()

    def _same_rules(self) -> bool:
        """Whether the tables are those that the packets were meant for, so that counters can be told apart."""
        if [(each.name, each.number) for each in self._before] != [(each.name, each.number) for each in self._after]:
            return False
        for image in self._before:
            with TableHandle(image.name, self._family) as handle:
                if not handle.opened_as(image):
                    return False
        return True

    def _subtract(self) -> Off | None:
        less = []
        for before, after in zip(self._before, self._after, strict=True):
            counted = self._walk.counted(before.name)
            if not any(counted.packets):
                continue
            then, now = before.counters(), after.counters()
            for at, packets in enumerate(counted.packets):
                if now[at].packets - then[at].packets < packets:
                    return None
            less.append((before, counted))
        for before, counted in less:
            with TableHandle(before.name, self._family) as handle:
                handle.count([-n & _ALL_BITS for n in counted.packets], [-n & _ALL_BITS for n in counted.bytes])
        return less

    def _images(self) -> list[Image]:
        images = []
        for name in in_use(self._family):
            if name != _NOT_PASSED:
                with TableHandle(name, self._family) as handle:
                    images.append(handle.image())
        return images

    def _name(self, hazard: Hazard) -> str:
        image = next(each for each in self._before if each.name == hazard.table)
        place = image.places()[hazard.entry]
        where = f"{self._family} {hazard.table}"
        if place is not None:
            where += f" {place[0]} rule {place[1]}"
        verb = "would" if hazard.certain else "might"
        return f"opening packets {verb} meet {hazard.extension} at {where}"


_ALL_BITS = 0xFFFFFFFFFFFFFFFF
