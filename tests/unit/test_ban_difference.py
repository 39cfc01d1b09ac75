"""What has to change of a list: as little as makes it what is wanted, and a second is no difference."""

from __future__ import annotations

import pytest

from nfkeep.bans.difference import Difference, Wanted, difference
from nfkeep.bans.values import Element, Kind

HOST = bytes([203, 0, 113, 9])
FOREVER = Element(HOST)
TEN_MINUTES_LEFT = Element(HOST, timeout_ms=3_600_000, expires_ms=600_000)


@pytest.mark.parametrize(
    ("there", "timeout_ms", "renewed"),
    [
        (TEN_MINUTES_LEFT, None, False),
        (TEN_MINUTES_LEFT, 600_000, False),
        (TEN_MINUTES_LEFT, 601_000, False),
        (TEN_MINUTES_LEFT, 599_000, False),
        (TEN_MINUTES_LEFT, 601_001, True),
        (TEN_MINUTES_LEFT, 598_999, True),
        (TEN_MINUTES_LEFT, 3_600_000, True),
        (TEN_MINUTES_LEFT, 0, True),
        (FOREVER, None, False),
        (FOREVER, 0, False),
        (FOREVER, 500, True),
    ],
)
def test_renews_what_ends_at_another_time(there: Element, timeout_ms: int | None, renewed: bool) -> None:
    """What counts is the time that is left; where none is given, any is right."""
    wanted = {(Kind.HOST4, HOST): Wanted("203.0.113.9", timeout_ms)}
    expected = Difference({}, ["203.0.113.9"] if renewed else [], [])
    assert difference(wanted, [(Kind.HOST4, there)]) == expected


def test_adds_and_takes_out() -> None:
    """By kind: a host is not a network that begins with the same bytes."""
    other = bytes([203, 0, 113, 10])
    wanted = {(Kind.HOST4, HOST): Wanted("203.0.113.9", 600_000)}
    there = [(Kind.HOST4, Element(other)), (Kind.NET4, Element(HOST + other))]
    gone = {Kind.HOST4: other, Kind.NET4: HOST + other}
    assert difference(wanted, there) == Difference(gone, [], ["203.0.113.9"])
