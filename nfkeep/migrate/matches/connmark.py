"""`-m connmark`: the mark of the packet's connection (connmark_mt() in xt_connmark.c; nothing without an entry)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.entries import HAS_ENTRY, TRACKED_NEVER, admit_template
from nfkeep.migrate.parts import NEVER
from nfkeep.migrate.values import masked_test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--mark": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    admit_template(match, context)
    return tuple(part for option in match.options for part in _parts(option))


def _parts(option: Option) -> tuple[Part, ...]:
    parts = masked_test("ct mark", option.value, negated=option.negated)
    return TRACKED_NEVER if parts == (NEVER,) else parts or (HAS_ENTRY,)
