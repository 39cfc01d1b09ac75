"""`-j TRACE`: what becomes of the packet is told (trace_tg() in xt_TRACE.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement: the same bit of the packet."""
    context.approximate(f"-j {target}", "what is told comes by netlink, not in the kernel's log", "nft monitor trace")
    return (Statement("meta nftrace set 1"),)
