"""`-j SNPT`: another prefix of the source, its checksum kept (ip6t_npt_map_pfx() in ip6t_NPT.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {"--src-pfx": 1, "--dst-pfx": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft cannot change a prefix without connections so that the checksum stays as it is (RFC 6296)",
        "with connections: snat ip6 prefix to PREFIX, dnat ip6 prefix to PREFIX",
    )
