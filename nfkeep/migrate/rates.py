"""Rates of packets, and times, as -m limit and -m hashlimit have them, and as nft's limits have them.

The kernel reckons in whole ticks and credits, so the rate that a rule has is not always the one that it says.
"""

from __future__ import annotations

import math

from nfkeep.migrate.loss import Lost

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_TICK = 0.004
_CLOSE_ENOUGH = 0.001
"""Within this the written rate is taken: the 4 ms of a tick make more of a difference to any burst."""


def rate_and_unit(text: str) -> tuple[int, str]:
    """`3/min` as (3, "minute"); without a unit it is by the second (parse_rate() in libxt_limit.c)."""
    number, given, unit = text.partition("/")
    if int(number) < 1:
        raise Lost(f"{text} is no rate")
    if not given:
        return int(number), "second"
    for name in ("second", "minute", "hour", "day"):
        if unit and name.startswith(unit.lower()):
            return int(number), name
    raise Lost(f"{text} is no rate")


def unit_seconds(unit: str) -> int:
    """How long a second, minute, hour, day or week is."""
    return _SECONDS[unit]


def duration(seconds: int) -> str:
    """Seconds as nft reads them: with nine digits they are too large for it, in days they are not."""
    return f"{seconds}s" if seconds < 10**8 else f"{seconds // 86400}d{seconds % 86400}s"


def coarse(seconds_to_refill: float, packets: int) -> str:
    """What differs for a bucket of so many packets, as the kernel adds credit once a tick and nft at once; or ""."""
    if seconds_to_refill < _TICK:
        return (
            "the bucket fills up within a tick (4 ms where HZ is 250): iptables lets no more than a burst through in"
            " each"
        )
    if seconds_to_refill / packets < _TICK:
        early = math.ceil(_TICK * packets / seconds_to_refill)
        return f"credit comes as time passes, with iptables once a tick (4 ms where HZ is 250): {early} packets earlier"
    return ""


def nft_rate(text: str, period: float) -> str:
    """The rate for nft, `3/minute`, of one packet in each `period` seconds: as written if that is what it is."""
    number, unit = rate_and_unit(text)
    for rate, of in ((number, unit), *((round(seconds / period), name) for name, seconds in _SECONDS.items())):
        if rate and abs(_SECONDS[of] / rate / period - 1) < _CLOSE_ENOUGH:
            return f"{rate}/{of}"
    raise Lost(f"nft has no rate of one packet in {period:g} seconds")
