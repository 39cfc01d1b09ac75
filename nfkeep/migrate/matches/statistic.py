"""`-m statistic`: every nth packet, or some at random (statistic_mt() in xt_statistic.c).

`numgen inc` counts as the kernel's nth mode does, from 0 on (nft_ng_inc_gen()). At random both compare 31 random bits
with the same number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--mode": 1, "--probability": 1, "--every": 1, "--packet": 1}
_ONE = 1 << 31


def translate(match: Extension, _context: Context) -> tuple[Part, ...]:
    """One test. The position of nth, and so the phase, begins anew, as after each change of iptables' table."""
    negated = any(option.negated for option in match.options)
    values = {option.name: option.value for option in match.options}
    if values["--mode"] == "nth":
        every, packet = int(values["--every"]), int(values.get("--packet", "0"))
        if not packet < every:
            raise Lost("there is no such packet: --packet has to be less than --every")
        return (Test(f"numgen inc mod {every}", (str(packet),), negated),)
    chance = _rounded(_ONE * float(values["--probability"]))
    if not 0 <= chance <= _ONE:
        raise Lost("a probability is between 0 and 1")
    if chance in (0, _ONE):
        return (NEVER,) if (chance == 0) != negated else ()
    return (Statement(f"meta random & {_ONE - 1} {'>=' if negated else '<'} {chance}"),)


def _rounded(number: float) -> int:
    """lround() of C, with halves away from zero."""
    return int(number + 0.5)
