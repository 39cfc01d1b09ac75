"""How often a test repeats itself: as often as it says, but on an emulated processor, where that takes hours.

There NFKEEP_TEST_PART says which part of its rounds a test has: 10 is a tenth. What a round does stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

PART = int(os.environ.get("NFKEEP_TEST_PART") or 1)

Item = TypeVar("Item")


def rounds(number: int) -> int:
    """The part of `number` rounds that there is time for, at least two."""
    return max(number // PART, min(number, 2))


def some(items: Sequence[Item]) -> Sequence[Item]:
    """That part of what a test goes through, from its beginning to its end."""
    return items[::PART]
