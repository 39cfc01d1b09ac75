"""`-j LED`: packets make a light blink (xt_LED.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--led-trigger-id": 1, "--led-delay": 1, "--led-always-blink": 0}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft has no lights",
        "a light can blink for an interface: the trigger netdev",
    )
