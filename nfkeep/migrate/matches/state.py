"""`-m state`: the connection's state, the older way to say it (a case of xt_conntrack.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.states import state_parts

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--state": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(part for option in match.options for part in state_parts(option.value, negated=option.negated))
