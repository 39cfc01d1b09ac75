"""`-j HL`: how far an IPv6 packet may still go (hl_tg6() in xt_HL.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.hops import hops_mapped, hops_set

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Statement
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--hl-set": 1, "--hl-inc": 1, "--hl-dec": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    (option,) = target.options
    number = int(option.value, 0)
    if option.name == "--hl-set":
        return hops_set("ip6 hoplimit", number)
    return hops_mapped("ip6 hoplimit", number if option.name == "--hl-inc" else -number)
