"""Limits that let another packet through within a tick of the kernel: iptables then not yet, nft already.

xt_limit and xt_hashlimit reckon in jiffies, and so add credit once a tick (limit_mt() in xt_limit.c); nft_limit.c
reckons in nanoseconds. Translations say so. How many packets of a comparison fall into one tick depends on the machine.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.rates import rate_and_unit, unit_seconds
from nfkeep.xtables.jiffies import tick_seconds

if TYPE_CHECKING:
    from nfkeep.migrate.verify.words import Words

_RATES = {"--limit", "--hashlimit", "--hashlimit-upto", "--hashlimit-above"}


def is_quick(words: Words) -> bool:
    """Whether a limit in the rule has credit for another packet sooner than after a tick."""
    return any(_seconds_for_one(word.value) < tick_seconds() for word in words.conditions if word.name in _RATES)


def _seconds_for_one(rate: str) -> float:
    try:
        number, unit = rate_and_unit(rate)
        return unit_seconds(unit) / number
    except (Lost, ValueError):  # of bytes, or none
        return math.inf
