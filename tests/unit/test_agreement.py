"""What two counters that were looked at together tell of the moment in which one of them began, or ended."""

from __future__ import annotations

import pytest

from nfkeep import Counters
from nfkeep.migrate.live.agreement import iptables_at

Looks = list[tuple[tuple[int, int], tuple[int, int]]]

CASES: dict[str, tuple[Looks, tuple[int, int] | None]] = {
    "both count": ([((107, 700), (7, 70)), ((108, 800), (8, 170)), ((110, 820), (10, 190))], (100, 630)),
    "nft alone": ([((100, 900), (7, 70)), ((100, 900), (8, 170)), ((100, 900), (10, 190))], (100, 900)),
    "iptables has counted before": ([((3, 30), (7, 70)), ((4, 40), (8, 80)), ((5, 50), (9, 90))], (-4, -40)),
    "some of the packets": ([((107, 700), (7, 70)), ((107, 700), (8, 170)), ((108, 720), (10, 190))], None),
    "other bytes": ([((107, 700), (7, 70)), ((108, 800), (8, 171)), ((110, 820), (10, 190))], None),
    "not often enough": ([((107, 700), (7, 70)), ((107, 700), (7, 70)), ((108, 800), (8, 170))], None),
    "never": ([], None),
}


@pytest.mark.parametrize(("looks", "expected"), CASES.values(), ids=CASES)
def test_what_iptables_had_counted(looks: Looks, expected: tuple[int, int] | None) -> None:
    """When nft had counted nothing yet."""
    found = iptables_at(Counters(), [(Counters(*iptables), Counters(*nft)) for iptables, nft in looks])
    assert found == (None if expected is None else Counters(*expected))
