"""`-j CLUSTERIP`: one address for several hosts (ipt_CLUSTERIP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {
    "--new": 0,
    "--hashmode": 1,
    "--clustermac": 1,
    "--total-nodes": 1,
    "--local-node": 1,
    "--hash-init": 1,
}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft answers no ARP, and Linux has no CLUSTERIP since 6.2",
        "-m cluster, or jhash and arptables, as its manual says",
    )
