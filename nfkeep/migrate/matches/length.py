"""`-m length`: how long a packet is, with all headers of IP (xt_length.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--length": 1}
_MOST = 65535


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test. 0:65535 is one too: packets that segmentation offload has put together may be longer."""
    (option,) = match.options
    low, high = number_range(option.value, _MOST)
    if low == 0 and high == _MOST:
        return (Test("meta length", (f"0-{_MOST}",), option.negated),)
    return header_range("meta length", low, high, _MOST, negated=option.negated)
