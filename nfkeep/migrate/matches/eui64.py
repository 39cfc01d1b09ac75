"""`-m eui64`: whether an address of IPv6 is made of the MAC address (ip6t_eui64.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Not expressible."""
    raise Lost("nft cannot compare two fields of a packet with each other", "list the pairs of addresses in a set")
