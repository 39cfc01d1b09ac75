"""`-m mark`: the packet's mark (mark_mt() in xt_mark.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.values import masked_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--mark": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(
        part for option in match.options for part in masked_test("meta mark", option.value, negated=option.negated)
    )
