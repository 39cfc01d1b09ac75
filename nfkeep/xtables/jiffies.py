"""The kernel's own clock, jiffies, in which xt_recent stamps what it sees; only /proc/timer_list shows it, to root.

How many there are to a second (CONFIG_HZ) is what the coarse clocks are exact to (posix_get_coarse_res() in
kernel/time/posix-timers.c).
"""

from __future__ import annotations

import re
import time

import attrs

_PATH = "/proc/timer_list"
_JIFFIES = re.compile(rb"^jiffies: (\d{1,20})$", re.MULTILINE)
_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h; the module time has no name for it
_WRAP = 1 << 32


@attrs.frozen(slots=True)
class KernelClock:
    """What the clock showed, and how many jiffies it makes in a second."""

    jiffies: int
    rate: int

    def age_seconds(self, stamp: int) -> float:
        """How long ago a stamp was made; 0 for one made since the clock was read."""
        age = self.jiffies - stamp
        if age < -_WRAP // 2:  # a counter of 32 bits has started again since
            age += _WRAP
        return max(age, 0) / self.rate


def tick_seconds() -> float:
    """How long this kernel's clock stands still between two jiffies."""
    return time.clock_getres(_CLOCK_MONOTONIC_COARSE)


def read_clock() -> KernelClock | None:
    """What the clock shows now; None where this process may not see it."""
    text = b""
    try:
        with open(_PATH, "rb", buffering=0) as file:
            # The first processor's part, which comes first, is enough; the rest can be very long.
            while (part := file.read(1 << 16)) and not _JIFFIES.search(text := text + part):
                pass
        rate = round(1 / tick_seconds())
    except OSError:
        return None
    return parse_clock(text, rate)


def parse_clock(text: bytes, rate: int) -> KernelClock | None:
    """The clock from the beginning of /proc/timer_list; None if it isn't there."""
    shown = _JIFFIES.search(text)
    return None if shown is None else KernelClock(int(shown[1]), rate)
