"""`-j SECMARK`: a security context for the packet (xt_SECMARK.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--selctx": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft's secmark objects need the security module when the script is loaded, and were not compared with SECMARK",
        'secmark NAME { "CONTEXT" } and meta secmark set "NAME"',
    )
