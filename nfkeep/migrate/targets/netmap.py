"""`-j NETMAP`: another network, the host's part kept (netmap_tg4() in xt_NETMAP.c, nft_nat_setup_netmap())."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--to": 1}
_OF_DESTINATIONS = frozenset({"PREROUTING", "OUTPUT"})


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement, the last one: it accepts. Which address it changes depends on where packets come from."""
    (option,) = target.options
    if not option.value.partition("/")[2].isdecimal():
        raise Lost(f"{option.value} is no network with the length of its prefix")
    network = (ipaddress.IPv6Network if context.v6 else ipaddress.IPv4Network)(option.value)
    if context.hooks & _OF_DESTINATIONS and context.hooks - _OF_DESTINATIONS:
        raise Lost(
            f"packets come here from {', '.join(sorted(context.hooks))}: some would be given another destination, some"
            " another source",
            "use one chain for each",
        )
    verb = "dnat" if context.hooks & _OF_DESTINATIONS or not context.hooks else "snat"
    return (Statement(f"{verb} {context.ip} prefix to {network}"),)
