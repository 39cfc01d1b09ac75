"""`-m physdev`: the port of the bridge that the packet passes (physdev_mt() in xt_physdev.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--physdev-in": 1,
    "--physdev-out": 1,
    "--physdev-is-in": 0,
    "--physdev-is-out": 0,
    "--physdev-is-bridged": 0,
}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Nothing that nft has."""
    raise Lost("nft does not know a bridge's ports in a table of this family", "filter in a table of the family bridge")
