"""The kernel's own clock, jiffies, in which xt_recent stamps what it sees; only /proc/timer_list shows it, to root.

How many there are to a second (CONFIG_HZ) follows from it: a kernel begins to count five minutes below 2^32.
"""

from __future__ import annotations

import re

import attrs

_PATH = "/proc/timer_list"
_NOW = re.compile(rb"^now at (\d{1,20}) nsecs$", re.MULTILINE)
_JIFFIES = re.compile(rb"^jiffies: (\d{1,20})$", re.MULTILINE)
_RATES = (100, 250, 300, 1000, 24, 32, 48, 64, 128, 200, 256, 500, 512, 1024, 1200)  # kernel/Kconfig.hz and arch/*
_START_SECONDS = -300  # INITIAL_JIFFIES (include/linux/jiffies.h), as a number of 32 bits
_TOLERANCE = 0.001  # of the time since the start; the usual rates are 2 % apart
_TOLERANCE_SECONDS = 2.0
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


def read_clock() -> KernelClock | None:
    """What the clock shows now; None where this process may not see it, or cannot tell what it shows."""
    text = b""
    try:
        with open(_PATH, "rb", buffering=0) as file:
            # The first processor's part, which comes first, is enough; the rest can be very long.
            while (part := file.read(1 << 16)) and not _JIFFIES.search(text := text + part):
                pass
    except OSError:
        return None
    return parse_clock(text)


def parse_clock(text: bytes) -> KernelClock | None:
    """The clock from the beginning of /proc/timer_list; None if it isn't there, or fits no usual rate, or several."""
    now, shown = _NOW.search(text), _JIFFIES.search(text)
    if now is None or shown is None:
        return None
    seconds, jiffies = int(now[1]) / 1e9, int(shown[1])
    most = _TOLERANCE_SECONDS + _TOLERANCE * seconds
    fitting = [rate for rate in _RATES if _off_seconds(jiffies, rate, seconds) < most]
    return KernelClock(jiffies, fitting[0]) if len(fitting) == 1 else None


def _off_seconds(jiffies: int, rate: int, seconds: float) -> float:
    """By how much the clock would be wrong if it ran at this rate."""
    off = jiffies - round((seconds + _START_SECONDS) * rate) - _WRAP
    if jiffies < _WRAP:  # it may be one of 32 bits, that has started again since
        off = min(off % _WRAP, -off % _WRAP)
    return abs(off) / rate
