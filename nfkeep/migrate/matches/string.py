"""`-m string`: text anywhere in the packet (string_mt() in xt_string.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--algo": 1, "--string": 1, "--hex-string": 1, "--from": 1, "--to": 1, "--icase": 0}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Nothing that nft has."""
    raise Lost("nft cannot search a packet for text", "filter by address or port, or in the program that reads it")
