"""What nft wants to know before it rewrites ports: that the packet is of a protocol that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.head import protocol_name
from nfkeep.migrate.layout import tidied
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context


def protocol_again(context: Context) -> tuple[Test, ...]:
    """The protocol of the rule's head as a test right before a statement, where what nft reads does not show it.

    nft refuses ports in nat and tproxy without it; the parts of a choice are in other chains.
    """
    if any(isinstance(part, (AnyOf, NoneOf)) for part in tidied(context.parts)):
        return (protocol(context),)
    return ()


def protocol(context: Context) -> Test:
    """The protocol of the rule's head as a test."""
    if context.protocol is None:
        raise Lost("ports are rewritten of an unknown protocol", "iptables wants -p too")
    return Test("meta l4proto", (protocol_name(context.protocol),))
