"""`-m ipvs`: the packet belongs to a virtual server (ipvs_mt() in xt_ipvs.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ipvs": 0, "--vproto": 1, "--vaddr": 1, "--vport": 1, "--vdir": 1, "--vmethod": 1, "--vportctl": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Nothing that nft has."""
    raise Lost("nft knows nothing of virtual servers", "ask for the address and the port of the server")
