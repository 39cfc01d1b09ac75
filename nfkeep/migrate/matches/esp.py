"""`-m esp`: the security parameter index of an encrypted packet (xt_esp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--espspi": 1}
_HEADER = 8
_MOST = 0xFFFFFFFF


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test; without an index the header has to be there only."""
    option = match.option("--espspi")
    low, high = number_range(option.value, _MOST) if option else (0, _MOST)
    negated = option is not None and option.negated
    return (*first_fragment(context, _HEADER), *header_range("esp spi", low, high, _MOST, negated=negated))
