"""`-m mac`: the Ethernet address that sent the frame.

mac_mt() in xt_mac.c: never without an Ethernet header, negated or not. nft asks for an interface of that kind by itself
(`iiftype ether`) and breaks off without a header (nft_payload_eval()).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--mac-source": 1}
_ADDRESS = re.compile(r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}")


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test."""
    return tuple(Test("ether saddr", (_address(each.value),), each.negated) for each in match.options)


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text.lower()):
        raise ValueError(text)
    return ":".join(f"{int(octet, 16):02x}" for octet in text.split(":"))
