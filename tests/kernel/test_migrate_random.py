"""Random rules and rulesets, translated, meet the same packets as the kernel's own rules of iptables do.

`NFKEEP_RANDOM_RULESETS` says how many of either family, together; the long form is `tox -e migrate`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_rules import ruleset

from nfkeep import Family, Fidelity
from nfkeep.migrate import translate
from nfkeep.migrate.source import read_source
from nfkeep.migrate.verify import Harness
from nfkeep.migrate.verify.derive import packets_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(0)]

RULESETS = int(os.environ.get("NFKEEP_RANDOM_RULESETS", "200"))
PACKETS = 40
AT_ONCE = 500  # hypothesis remembers all that it has tried, with 40 KB for each

random_rulesets = settings(
    max_examples=min(RULESETS // 4, AT_ONCE),
    deadline=None,
    database=None,
    derandomize=RULESETS <= 200,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", params=list(Family), ids=str)
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """The two hosts for all rulesets of a family."""
    with Harness(request.param) as made:
        yield made


@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_random_rulesets_mean_the_same(harness: Harness, optimize: bool) -> None:
    """Up to thirty rules in base chains and user chains; every packet gets the same verdict and the same answer."""

    @random_rulesets
    @given(ruleset(harness.family), st.integers(0, 1 << 30))
    def try_one(text: str, seed: int) -> None:
        translation = translate(text, harness.family, optimize=optimize)
        assert [loss for loss in translation.losses if loss.fidelity is Fidelity.LOST] == []
        packets = packets_for(read_source(text, harness.family), PACKETS, seed)
        if any("fragment" in f"{loss.part} {loss.reason}" for loss in translation.losses):  # told, so no fault
            packets = [packet for packet in packets if not (packet.fragment or packet.more)]
        compared = harness.compare(text, translation.script, packets, first=True)
        assert [str(each) for each in compared.differences] == []

    for _ in range(max(1, RULESETS // 4 // AT_ONCE)):
        try_one()
