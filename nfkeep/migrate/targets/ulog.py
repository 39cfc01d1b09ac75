"""`-j ULOG`: the packet to a program that listens (ipt_ULOG.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--ulog-prefix": 1, "--ulog-nlgroup": 1, "--ulog-cprange": 1, "--ulog-qthreshold": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "Linux has no ULOG since 3.17",
        "-j NFLOG, with ulogd's input plugin NFLOG",
    )
