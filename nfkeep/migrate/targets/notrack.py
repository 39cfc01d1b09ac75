"""`-j NOTRACK`: no entry in conntrack for this packet (notrack_tg() in xt_CT.c, nft_notrack_eval())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    return (Statement("notrack"),)
