"""`-m osf`: the operating system that a SYN looks like (nf_osf_match() in nfnetlink_osf.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.names import quoted
from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--genre": 1, "--ttl": 1, "--log": 1}
_TTL = {"0": "", "1": "ttl loose ", "2": "ttl skip "}
_LONGEST = 15  # NFT_OSF_MAXGENRELEN, with its end
_NOT_FOUND = "unknown"  # what nft calls a packet that no fingerprint fits


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    genre, ttl = match.option("--genre"), match.option("--ttl")
    if genre is None:
        raise ValueError("no --genre")
    if match.option("--log"):
        raise Lost("with --log the kernel matches every known system, not only this one", "leave --log out")
    if genre.negated:
        raise Lost("the kernel takes no notice of its `!`", "decide what is meant, without `!`")
    if len(genre.value) > _LONGEST or genre.value == _NOT_FOUND or not genre.value or "*" in genre.value:
        raise Lost(f"nft cannot ask for the system {genre.value!r}")
    context.approximate(match, "a packet that looks like several systems is taken for the first of them only")
    return (Test(f"osf {_TTL[ttl.value if ttl else '0']}name", (quoted(genre.value, "the system"),)),)
