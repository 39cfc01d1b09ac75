"""`-m time`: the clock (time_mt() in xt_time.c).

All numbers are seconds, which nft takes for UTC; text like "17:00" it would take for the time zone of whoever loads the
script. A --datestop of 2038-01-19T03:14:07 is what libxtables prints where none was given (time_init()).
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

from nfkeep.migrate.parts import NEVER, AnyOf, Test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--timestart": 1,
    "--timestop": 1,
    "--monthdays": 1,
    "--weekdays": 1,
    "--datestart": 1,
    "--datestop": 1,
    "--kerneltz": 0,
    "--contiguous": 0,
}
_WEEK = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
_DAY = 86400
_FOREVER = (1 << 31) - 1
_FIRST_DATE, _LAST_DATE = datetime.date(2025, 1, 1), datetime.date(2038, 1, 19)
_DATE = re.compile(r"(\d+)(?:-(\d+)(?:-(\d+)(?:T(\d+)(?::(\d+)(?::(\d+))?)?)?)?)?")
_CLOCK = re.compile(r"(\d+):(\d+)(?::(\d+))?")


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """The dates, then the hours together with the days."""
    weekdays = _numbers(match.option("--weekdays"), range(1, 8), _weekday)
    monthdays = _numbers(match.option("--monthdays"), range(1, 32), lambda text: int(text, 0))
    if not weekdays or not monthdays:
        return (NEVER,)
    dates, hours = _dates(match), match.option("--timestart", "--timestop")
    _admit(match, context, weekday=len(weekdays) < 7, other=bool(dates or hours or len(monthdays) < 31))

    def days(later: int) -> tuple[Test, ...]:
        return (*_weekday_tests(weekdays, later), *_monthday_tests(monthdays, later, context))

    start, stop = _seconds(match.option("--timestart"), 0), _seconds(match.option("--timestop"), _DAY - 1)
    if start < stop:
        clock = (Test("meta hour", (f"{start}-{stop}",)),) if (start, stop) != (0, _DAY - 1) else ()
        return (*dates, *clock, *days(0))
    early, late = Test("meta hour", (f"0-{stop}",)), Test("meta hour", (f"{max(start, stop + 1)}-{_DAY - 1}",))
    ways: tuple[tuple[Simple, ...], ...]
    if match.option("--contiguous"):  # the hours after midnight belong to the day before
        ways = ((early, *days(1)), (late, *days(0))) if stop < _DAY - 1 else ((early, *days(1)),)
        return (*dates, AnyOf(ways))
    ways = ((early,), (late,)) if start > stop + 1 else ((),)
    return (*dates, AnyOf(ways), *days(0))


def _admit(match: Extension, context: Context, *, weekday: bool, other: bool) -> None:
    """The kernel's time zone: xt_time heeds it with --kerneltz, nft_meta_weekday() always, nft_meta_hour() never."""
    advice = "nothing to do while the kernel's time zone is UTC, as it is unless hwclock --systz set another"
    if match.option("--kerneltz") and other:
        context.approximate(match, "hours and dates are UTC in nft: off by the time zone that the kernel has", advice)
    if weekday and not match.option("--kerneltz"):
        context.approximate(
            match, "nft's weekday is that of the kernel's time zone, not UTC: off by it around midnight", advice
        )
    if match.option("--monthdays"):
        context.approximate(
            match,
            f"the days of the month are listed from {_FIRST_DATE} to {_LAST_DATE}; before and after, none matches",
            "translate again in time",
        )


def _dates(match: Extension) -> tuple[Test, ...]:
    start, stop = match.option("--datestart"), match.option("--datestop")
    tests = []
    if start is not None and (first := _stamp(start.value)):
        tests.append(Test("meta time >=", (str(first),)))
    if stop is not None and (last := _stamp(stop.value)) != _FOREVER:
        tests.append(Test("meta time <", (str(last + 1),)))
    return tuple(tests)


def _stamp(text: str) -> int:
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (
        int(each or least) for each, least in zip(found.groups(), _LEAST, strict=True)
    )
    moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
    return int(moment.timestamp())


_LEAST = (0, 1, 1, 0, 0, 0)


def _seconds(option: Option | None, default: int) -> int:
    if option is None:
        return default
    found = _CLOCK.fullmatch(option.value)
    if found is None:
        raise ValueError(option.value)
    hour, minute, second = (int(each or 0) for each in found.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(option.value)
    return hour * 3600 + minute * 60 + second


def _weekday(text: str) -> int:
    return int(text, 0) if text[:1].isdecimal() else _WEEK.index(text[:2]) + 1


def _numbers(option: Option | None, all_of: range, number: Callable[[str], int]) -> frozenset[int]:
    if option is None:
        return frozenset(all_of)
    asked = frozenset(number(text) for text in option.value.split(","))
    return frozenset(each for each in all_of if (each in asked) != option.negated)


def _weekday_tests(weekdays: frozenset[int], later: int) -> tuple[Test, ...]:
    if len(weekdays) == len(_WEEK):
        return ()
    return (Test("meta day", tuple(str((each + later) % 7) for each in sorted(weekdays))),)


def _monthday_tests(monthdays: frozenset[int], later: int, context: Context) -> tuple[Test, ...]:
    if len(monthdays) == 31:
        return ()
    name = "-".join(("monthdays", *map(str, sorted(monthdays)), *(["after"] if later else [])))
    elements = ",\n".join(f"\t\t\t{first}-{last}" for first, last in _runs(monthdays, later))
    body = ("typeof meta time", "flags interval", f"elements = {{\n{elements}\n\t\t}}")
    return (Test("meta time", (f"@{context.objects.declare('set', name, body)}",)),)


def _runs(monthdays: frozenset[int], later: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of days, `later` days after those of the month.

    nft counts nanoseconds and takes the end for a part of the range: one nanosecond too many.
    """
    epoch = datetime.date(1970, 1, 1)
    begun: int | None = None
    for number in range((_FIRST_DATE - epoch).days, (_LAST_DATE - epoch).days + 2):
        date = epoch + datetime.timedelta(days=number)
        within = date.day in monthdays and date <= _LAST_DATE
        if within and begun is None:
            begun = number
        elif not within and begun is not None:
            yield (begun + later) * _DAY, (number + later) * _DAY
            begun = None
