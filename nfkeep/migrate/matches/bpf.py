"""`-m bpf`: a program decides (bpf_mt_v1() in xt_bpf.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--bytecode": 1, "--object-pinned": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Nothing that nft has."""
    raise Lost("nft cannot run the program", "write down in nft what the program asks for")
