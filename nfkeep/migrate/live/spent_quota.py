"""The quotas of a rule of iptables that goes on from nft's: what is left of them, and what is known of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.model import Counters
from nfkeep.xtables import quota

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.keep.ledger import Ledger
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.ties import Tie
    from nfkeep.model import Rule
    from nfkeep.nft.quotas import SeenQuota

Place = tuple[str, int]
"""Chain and position, from 1."""


@attrs.define
class SpentQuota:
    """The quotas of a rule that was written: of the `wholes` so many bytes were `left` when it had counted `at`.

    `late`: how many bytes more the kernel lets pass; None as long as that is not known. `doubt`: how many more at the
    most that nobody can tell.
    """

    name: Name
    tie: Tie
    place: Place
    where: str
    wholes: tuple[int, ...]
    left: tuple[int, ...]
    at: int
    late: int | None = None
    doubt: int = 0

    def stood_still(self, stood: int, then: int, more: int, quotas: Sequence[SeenQuota]) -> None:
        """The quotas of nft stand still since the rule had counted `stood`; `then` is what it had a moment later.

        `more`: what it has got since, for what it has not seen.
        """
        exactly = tuple(max(0, each.whole - each.used - (then - stood)) for each in quotas)
        has = (max(0, left - (then - self.at)) for left in self.left)
        self.late = max(had - left for had, left in zip(has, exactly, strict=True))
        self.left, self.at = exactly, then + more

    def written(self, rule: Rule) -> Rule:
        """The rule as it is now, with what is left by now."""
        passed = max(0, rule.counters.bytes - self.at)  # less: somebody has put it to zero
        self.left, self.at = tuple(max(0, each - passed) for each in self.left), rule.counters.bytes
        return quota.with_figures(rule, self.left)

    def note(self, ledger: Ledger, rule: Rule) -> None:
        """Have on record what it has counted where its figures begin."""
        (table, family), (chain, _) = self.name, self.place
        if self.at:
            ledger.note(family, table, chain, attrs.evolve(rule, counters=Counters(0, self.at)), self.wholes)

    def outcome(self, more: int | None) -> Outcome:
        """What came of it. `more`: what the rule's counter has got in the end, if that is known."""
        detail, fidelity = f"{_and(self.left)} of {_and(self.wholes)} bytes are left", Fidelity.RESTORED
        late = more if self.late is None else self.late
        if late is None or late:
            passed = "what has" if late is None else f"{late} bytes that have"
            detail += f"; {passed} passed during the change come off at the next one"
            fidelity = Fidelity.APPROXIMATED
        if self.doubt:
            detail += f"; {self.doubt} bytes more may pass, which passed in the moment of the change"
            fidelity = Fidelity.APPROXIMATED
        return Outcome(quota.NAME, self.where, fidelity, detail)


def _and(figures: Sequence[int]) -> str:
    return " and ".join(map(str, figures))
