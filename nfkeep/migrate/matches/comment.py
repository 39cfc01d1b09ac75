"""`-m comment`: what people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--comment": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """No condition; the text goes behind the rule."""
    texts = [context.comment, *(option.value for option in match.options)]
    context.comment = "; ".join(filter(None, texts))
    return ()
