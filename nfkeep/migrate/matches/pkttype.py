"""`-m pkttype`: to whom the frame was addressed (pkttype_mt() in xt_pkttype.c, nft_meta_get_eval() alike)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--pkt-type": 1}
_TYPES = {
    "unicast": "host",
    "host": "host",
    "broadcast": "broadcast",
    "bcast": "broadcast",
    "multicast": "multicast",
    "mcast": "multicast",
    "otherhost": "other",
}


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(Test("meta pkttype", (_TYPES[each.value.lower()],), each.negated) for each in match.options)
