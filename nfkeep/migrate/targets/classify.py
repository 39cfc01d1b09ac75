"""`-j CLASSIFY`: the class for traffic control (classify_tg() in xt_CLASSIFY.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--set-class": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement. The number as it is: nft has names for some pairs (`none`, `root`)."""
    (option,) = target.options
    major, minor = (int(each, 16) for each in option.value.split(":"))
    return (Statement(f"meta priority set {major << 16 | minor:#x}"),)
