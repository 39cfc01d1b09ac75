"""`-m socket`: a socket of this host would get the packet (socket_match() in xt_socket.c, nft_socket.c alike).

A socket that is not whole yet (a request, TIME_WAIT) is never a wildcard, and has no mark to restore; nft breaks off
at either question. iptables' match has fragments put together (socket_mt_enable_defrag()); in nft only `tproxy` does
(nft_tproxy_init()), so there is a way with it that no packet goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.entries import NO_PACKET
from nfkeep.migrate.parts import AnyOf, NoneOf, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--transparent": 0, "--nowildcard": 0, "--restore-skmark": 0}
_EXISTS = Test("socket transparent", ("0", "1"))
_TRANSPARENT = Test("socket transparent", ("1",))
_WILDCARD = Test("socket wildcard", ("1",))
_RESTORE = Statement("meta mark set socket mark")
_DEFRAGMENT = (NO_PACKET, Statement("meta l4proto tcp tproxy to :1"))


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test, perhaps an exception, perhaps an act."""
    given = {option.name for option in match.options}
    found = _TRANSPARENT if "--transparent" in given else _EXISTS
    parts: list[Part] = [found]
    if context.chain == "PREROUTING":
        parts = [AnyOf(((found,), _DEFRAGMENT))]
    else:
        context.approximate(
            match, "nft has no fragments put together for it: rules see them one by one, unless connections are tracked"
        )
    if "--nowildcard" not in given:
        parts.append(NoneOf(((_WILDCARD,),)))
    if "--restore-skmark" in given:
        parts.append(AnyOf(((_RESTORE,), (found,))))
    return tuple(parts)
