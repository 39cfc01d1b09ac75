"""`-m connbytes`: how much a connection has transferred (connbytes_mt() in xt_connbytes.c).

A connection from before the accounting was switched on has no counters and never matches; for nft all of them are 0
then (nft_ct_get_eval() in nft_ct.c). Where 0 would do, one packet at least has to have been counted: the packet that
is being looked at is, in every entry with counters. Either side switches the accounting on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.entries import TRACKED_NEVER
from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--connbytes": 1, "--connbytes-mode": 1, "--connbytes-dir": 1}
_MODES = {"packets": "packets", "bytes": "bytes", "avgpkt": "avgpkt"}
_DIRECTIONS = {"original": "original ", "reply": "reply ", "both": ""}
_MOST = (1 << 64) - 1
_COUNTED = Test("ct packets", ("0",), negated=True)


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test. A single number has no upper end; `! N:N` is N:N, as libxtables swaps the ends to negate."""
    asked = {option.name: option for option in match.options}
    option = asked["--connbytes"]
    low, high = number_range(option.value, _MOST)
    if ":" not in option.value:
        high = _MOST
    if low > high:
        raise ValueError(option.value)
    left = f"ct {_DIRECTIONS[asked['--connbytes-dir'].value]}{_MODES[asked['--connbytes-mode'].value]}"
    negated = option.negated and low != high
    if (low, high) == (0, _MOST):
        return TRACKED_NEVER if negated else (_COUNTED,)
    text = str(low) if low == high else f"{low}-{high}"
    test = Test(left, (text,), negated)
    return (_COUNTED, test) if (low == 0) != negated else (test,)
