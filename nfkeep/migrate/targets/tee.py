"""`-j TEE`: a copy to another host (tee_tg4() in xt_TEE.c, nft_dup_ipv4_eval(): both are nf_dup_ipv4())."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--gateway": 1, "--oif": 1}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    if target.option("--oif"):
        raise Lost(
            "nft takes the number that the interface has when the script is loaded, and needs it to be there",
            "where it always is: dup to ADDRESS device INTERFACE",
        )
    (option,) = target.options
    return (Statement(f"dup to {(ipaddress.IPv6Address if context.v6 else ipaddress.IPv4Address)(option.value)}"),)
