"""`-m ipcomp`: the index of a compressed payload (xt_ipcomp.c, which does not look at what --compres is for)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ipcompspi": 1, "--compres": 0}
_HEADER = 4
_MOST = 0xFFFF
_MOST_GIVEN = 0xFFFFFFFF  # the option takes 32 bits, the header has 16


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test; without an index the header has to be there only."""
    option = match.option("--ipcompspi")
    low, high = number_range(option.value, _MOST_GIVEN) if option else (0, _MOST)
    if low > _MOST:
        low, high = 1, 0
    negated = option is not None and option.negated
    test = header_range("comp cpi", low, min(high, _MOST), _MOST, negated=negated)
    return (*first_fragment(context, _HEADER), *test)
