"""`-m cpu`: the CPU that handles the packet (cpu_mt() in xt_cpu.c, nft_meta_get_eval() alike)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--cpu": 1}
_MOST = (1 << 32) - 1


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    numbers = ((number_range(each.value, _MOST)[0], each.negated) for each in match.options)
    return tuple(Test("meta cpu", (str(number),), negated) for number, negated in numbers)
