"""`-j SNAT`: another source (xt_nat.c, nft_nat.c: both hand a range to nf_nat_setup_info())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.nat import FLAGS, flags, parse_range
from nfkeep.migrate.parts import Statement
from nfkeep.migrate.transport import protocol_again

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--to-source": 1, **FLAGS}


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """One statement, the last one: it accepts. A base of the ports has no meaning for sources."""
    wanted = [option for option in target.options if option.name == "--to-source"]
    if len(wanted) != 1:
        raise Lost("there are several sources", "Linux takes only one since 2.6.11")
    addresses, ports = parse_range(wanted[0].value, v6=context.v6)
    if ports is None:
        return (Statement(f"snat to {addresses}{flags(target)}"),)
    return (*protocol_again(context), Statement(f"snat to {addresses}:{ports}{flags(target)}"))
