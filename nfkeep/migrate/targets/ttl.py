"""`-j TTL`: how far an IPv4 packet may still go (ttl_tg() in xt_HL.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.hops import hops_in_rows, hops_set

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Rows, Statement
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--ttl-set": 1, "--ttl-inc": 1, "--ttl-dec": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """One statement, or rules for each number."""
    (option,) = target.options
    number = int(option.value, 0)
    if option.name == "--ttl-set":
        return hops_set("ip ttl", number)
    return hops_in_rows("ip ttl", number if option.name == "--ttl-inc" else -number)
