"""`-j CONNSECMARK`: the security context from and to the connection (xt_CONNSECMARK.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--save": 0, "--restore": 0}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft's ct secmark was not compared with CONNSECMARK",
        "to save: ct secmark set meta secmark; to restore: meta secmark set ct secmark",
    )
