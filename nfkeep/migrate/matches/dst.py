"""`-m dst`: the destination options of IPv6 (hbh_mt6() in ip6t_hbh.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.header_length import length_test
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--dst-len": 1, "--dst-opts": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """The length; without one the header has to be there only."""
    if match.option("--dst-opts"):
        raise Lost("nft cannot look at single destination options", "match the header's length, or the header only")
    parts = tuple(part for option in match.options for part in length_test("dst", option))
    return parts or (Statement("exthdr dst exists"),)
