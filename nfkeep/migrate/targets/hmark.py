"""`-j HMARK`: a mark from a hash of addresses and ports (hmark_hash() in xt_HMARK.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {
    "--hmark-src-prefix": 1,
    "--hmark-dst-prefix": 1,
    "--hmark-sport-mask": 1,
    "--hmark-dport-mask": 1,
    "--hmark-spi-mask": 1,
    "--hmark-sport": 1,
    "--hmark-dport": 1,
    "--hmark-spi": 1,
    "--hmark-proto-mask": 1,
    "--hmark-rnd": 1,
    "--hmark-mod": 1,
    "--hmark-offset": 1,
    "--hmark-tuple": 1,
}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """Always lost."""
    raise Lost(
        "nft's jhash takes the fields as they come; HMARK puts the lower address and the lower port first and hashes"
        " them in the machine's byte order, so flows would be spread differently",
        "if any even spreading will do: meta mark set jhash ip saddr . ip daddr mod N offset M",
    )
