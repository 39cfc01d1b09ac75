"""`-m rateest`: compare estimated rates (xt_rateest.c). nft has no estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--rateest": 1, "--rateest1": 1, "--rateest2": 1, "--rateest-delta": 0, "--rateest-lt": 0, "--rateest-gt": 0,
    "--rateest-eq": 0, "--rateest-bps": 1, "--rateest-bps1": 1, "--rateest-bps2": 1, "--rateest-pps": 1,
    "--rateest-pps1": 1, "--rateest-pps2": 1,
}  # fmt: skip


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Never."""
    raise Lost("nft has no estimator of rates", "use a limit in its place: limit rate over 1 mbytes/second")
