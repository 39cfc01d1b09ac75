"""`-m mh`: messages of Mobile IPv6 (ip6t_mh.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--mh-type": 1}
_MOST = 255
_NOTHING = "59"
"""The payload protocol of every message, as RFC 6275 has it."""


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test; nft looks for the header itself, and in no later fragment (ipv6_find_hdr())."""
    context.approximate_in_general(
        "-m mh", "iptables drops messages that say that a payload follows; here they only do not match"
    )
    option = match.option("--mh-type")
    low, high = number_range(option.value, _MOST) if option else (0, _MOST)
    kind = header_range("mh type", low, high, _MOST, negated=option is not None and option.negated)
    return (Test("mh nexthdr", (_NOTHING,)), *kind)
