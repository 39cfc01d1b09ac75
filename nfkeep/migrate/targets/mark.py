"""`-j MARK`: the packet's mark (mark_tg() in xt_mark.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.marks import changed, split_mark
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--set-xmark": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement, or none if no bit changes. libxtables prints --set-mark, --and-mark and the others as this one."""
    (option,) = target.options
    new = changed("meta mark", *split_mark(option.value))
    return () if new is None else (Statement(f"meta mark set {new}"),)
