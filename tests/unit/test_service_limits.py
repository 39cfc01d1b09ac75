"""How much each user of nfkeepd may do: rates in the long run and at once, and bans in force at a time."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfkeep.bans.values import Kind
from nfkeep.service.limits import Buckets, Rate, Shares


def key(number: int) -> tuple[Kind, bytes]:
    return Kind.HOST4, number.to_bytes(4, "big")


def test_a_burst_and_then_the_rate() -> None:
    """Ten at once, and then two a second."""
    buckets = Buckets(Rate(2, 10))
    assert [buckets.take(1, 100.0) for _ in range(11)] == [0.0] * 10 + [0.5]
    assert buckets.take(1, 100.25) == 0.25
    assert buckets.take(1, 100.5) == 0.0
    assert buckets.take(1, 100.5) == 0.5


def test_waiting_takes_nothing() -> None:
    """Who is told to wait, and asks again and again, waits no longer for it."""
    buckets = Buckets(Rate(1, 1))
    buckets.take(1, 0.0)
    for tenth in range(1, 10):
        assert buckets.take(1, tenth / 10) == pytest.approx(1 - tenth / 10)
    assert buckets.take(1, 1.0) == 0.0


def test_each_user_has_a_bucket() -> None:
    """One user's requests cost another one nothing."""
    buckets = Buckets(Rate(1, 1))
    assert [buckets.take(uid, 0.0) for uid in (1, 2, 1, 2)] == [0.0, 0.0, 1.0, 1.0]


def test_more_than_the_bucket_holds_never_passes() -> None:
    """More than the burst is told apart from more than there is now."""
    assert Buckets(Rate(5, 10)).take(1, 0.0, 11) == math.inf


def test_many_users_do_not_stay_for_ever() -> None:
    """Buckets that are full again are forgotten when there are many; those that are not are kept."""
    buckets = Buckets(Rate(1, 10))
    for uid in range(5000):
        buckets.take(uid, float(uid))
    assert len(buckets._levels) < 2000
    assert buckets.take(4999, 4999.0, 10) == 1.0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5))))
def test_never_more_than_burst_and_rate(takes: list[tuple[float, int]]) -> None:
    """Over any time, no more passes than the burst and the rate allow."""
    buckets, now, passed = Buckets(Rate(2, 5)), 0.0, 0
    for pause, tokens in takes:
        now += pause
        passed += tokens if buckets.take(1, now, tokens) == 0.0 else 0
        assert passed <= 5 + 2 * now + 1e-6


def test_a_share_is_full_and_has_room_again() -> None:
    """Bans count while they are in force: not the renewed ones again, and not those that ended or were lifted."""
    shares = Shares(3)
    shares.put(1, [(key(1), 10.0), (key(2), 20.0), (key(3), math.inf)])
    assert shares.excess(1, [key(1), key(2)], 0.0) == 0
    assert shares.excess(1, [key(1), key(4), key(5)], 0.0) == 2
    assert shares.excess(2, [key(4), key(5), key(6)], 0.0) == 0
    assert shares.excess(1, [key(4)], 10.0) == 0
    shares.put(1, [(key(4), 30.0)])
    assert shares.excess(1, [key(5)], 10.0) == 1
    shares.drop(key(3))
    assert shares.excess(1, [key(5)], 10.0) == 0


def test_one_address_many_times_counts_once() -> None:
    """A request that names an address twice is charged for one ban."""
    assert Shares(1).excess(1, [key(1), key(1)], 0.0) == 0


def test_a_renewed_ban_counts_until_its_new_end() -> None:
    """That the first end of a ban has come frees nothing if it was renewed."""
    shares = Shares(1)
    shares.put(1, [(key(1), 10.0)])
    shares.put(1, [(key(1), 50.0)])
    assert shares.excess(1, [key(2)], 10.0) == 1
    assert shares.excess(1, [key(2)], 50.0) == 0


def test_a_ban_belongs_to_who_made_it_last() -> None:
    """Who bans what another one has banned has it in his share from then on."""
    shares = Shares(1)
    shares.put(1, [(key(1), 10.0)])
    shares.put(2, [(key(1), 10.0)])
    assert shares.excess(1, [key(2)], 0.0) == 0
    assert shares.excess(2, [key(2)], 0.0) == 1


def test_renewing_for_ever_takes_no_memory() -> None:
    """The same ban a hundred thousand times leaves a bounded trace."""
    shares = Shares(1)
    for each in range(100_000):
        shares.put(1, [(key(1), 1e6 + each)])
    assert len(shares._ends) < 5000
    assert shares.excess(1, [key(2)], 1e6 + 99_998) == 1
    assert shares.excess(1, [key(2)], 1e6 + 99_999) == 0


def test_clearing_forgets_all() -> None:
    """When the list was gone nobody has a ban in it."""
    shares = Shares(1)
    shares.put(1, [(key(1), 10.0)])
    shares.clear()
    assert shares.excess(1, [key(2)], 0.0) == 0
