"""`-m dscp`: the six bits of the differentiated services field (dscp_mt() in xt_dscp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--dscp": 1}
_MOST = 63


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    (option,) = match.options
    value = int(option.value, 0)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{value} is none")
    return (Test(f"{context.ip} dscp", (f"{value:#04x}",), option.negated),)
