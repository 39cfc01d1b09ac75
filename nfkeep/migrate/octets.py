"""One octet of a header compared with a number, as options that end in -eq, -lt and -gt have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.values import header_range

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Option

MOST = 255


def octet_tests(left: str, option: Option) -> tuple[Part, ...]:
    """Whether `left` is equal to the option's value, less or greater; the header has to be there in any case."""
    low, high = octet_range(option)
    return header_range(left, low, high, MOST, negated=option.negated)


def octet_range(option: Option) -> tuple[int, int]:
    """The first and the last number that an option allows, the first above the last if none; negation is left aside."""
    value = int(option.value, 0)
    if not 0 <= value <= MOST:
        raise ValueError(f"{value} is no octet")
    compare = option.name.rpartition("-")[2]
    return {"eq": (value, value), "lt": (0, value - 1), "gt": (value + 1, MOST)}[compare]
