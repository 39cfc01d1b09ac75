"""`-m ttl`: how many hops a packet of IPv4 may still go (ttl_mt() in xt_hl.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.octets import octet_tests

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ttl-eq": 1, "--ttl-lt": 1, "--ttl-gt": 1}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(part for each in match.options for part in octet_tests("ip ttl", each))
