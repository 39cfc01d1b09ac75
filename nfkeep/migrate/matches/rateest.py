"""`-m rateest`: a rate that -j RATEEST estimates (xt_rateest_mt() in xt_rateest.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--rateest-delta": 0,
    "--rateest": 1,
    "--rateest1": 1,
    "--rateest2": 1,
    "--rateest-lt": 0,
    "--rateest-gt": 0,
    "--rateest-eq": 0,
    "--rateest-bps": 1,
    "--rateest-bps1": 1,
    "--rateest-bps2": 1,
    "--rateest-pps": 1,
    "--rateest-pps1": 1,
    "--rateest-pps2": 1,
}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Nothing that nft has."""
    raise Lost("nft has no estimate of rates", "a limit may do")
