"""`-j RATEEST`: feed an estimator of rates (xt_RATEEST.c). nft has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--rateest-name": 1, "--rateest-interval": 1, "--rateest-ewmalog": 1}


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """Never."""
    raise Lost("nft has no estimator of rates", "the rules with -m rateest that ask it need limits in their place")
