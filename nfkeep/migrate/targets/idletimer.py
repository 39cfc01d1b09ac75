"""`-j IDLETIMER`: a file of sysfs tells how long no packet came (xt_IDLETIMER.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--timeout": 1, "--label": 1, "--alarm": 0, "--send_nl_msg": 0}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft has no timers that user space waits for",
        "a set with a timeout tells of its last packet: nft monitor elements",
    )
