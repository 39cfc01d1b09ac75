"""`-m conntrack`: what is known of the packet's connection (xt_conntrack.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.states import state_parts

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ctstate": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option."""
    parts: list[Part] = []
    for option in match.options:
        if option.name != "--ctstate":
            raise Lost(f"{option.name} is not covered")
        parts += state_parts(option.value, negated=option.negated)
    return tuple(parts)
