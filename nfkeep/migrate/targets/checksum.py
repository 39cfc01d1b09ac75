"""`-j CHECKSUM`: the checksum that a network card would have filled in (checksum_tg() in xt_CHECKSUM.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--checksum-fill": 0}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft cannot calculate a checksum that was left to the network card",
        "only old DHCP clients on virtual machines of this host need it: leave it out, or ethtool -K INTERFACE tx off",
    )
