"""Ports in the headers of transport protocols, as -m tcp, udp, sctp, dccp and multiport have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.head import protocol_name
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part

MOST = 65535


def port_test(protocol: str, field: str, value: str, *, negated: bool = False) -> tuple[Part, ...]:
    """`FIRST[:LAST]` against `sport` or `dport` of a protocol.

    All ports are still a condition: there has to be a whole header, in the first fragment. None of them is never.
    """
    low, high = number_range(value, MOST)
    return header_range(f"{protocol} {field}", low, high, MOST, negated=negated)


def transport(context: Context, default: str) -> str:
    """The transport protocol of the rule as nft names it, or `default` where its head names none."""
    return default if context.protocol is None else protocol_name(context.protocol)
