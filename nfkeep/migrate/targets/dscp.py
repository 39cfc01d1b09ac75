"""`-j DSCP`: the class of service, the two bits of ECN kept (dscp_tg() in xt_DSCP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--set-dscp": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    (option,) = target.options
    return (Statement(f"{context.ip} dscp set {int(option.value, 0):#04x}"),)
