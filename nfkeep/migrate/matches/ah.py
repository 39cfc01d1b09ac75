"""`-m ah`: the authentication header: index, length, reserved bits (ipt_ah.c, ip6t_ah.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.fragments import first_fragment
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, Test
from nfkeep.migrate.values import header_range, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {"--ahspi": 1, "--ahlen": 1, "--ahres": 0}
_HEADER = 12
_MOST = 0xFFFFFFFF
_LENGTHS = range(8, 4 * 258, 4)
"""Lengths in bytes that the header can tell (ipv6_authlen() in <net/ipv6.h>)."""


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option. With IPv6 the header may be anywhere, and nft takes it for the transport header."""
    if context.v6 and context.rule.of_head("-p") and context.protocol not in ("all", "0"):
        raise Lost("nft does not see the protocol behind an authentication header", "leave out -p")
    tests = tuple(part for option in match.options for part in _part(option))
    start = () if context.v6 else first_fragment(context, _HEADER)
    return (*start, *(tests or (Test("ah spi", (f"0-{_MOST}",)),)))


def _part(option: Option) -> tuple[Part, ...]:
    if option.name == "--ahspi":
        return header_range("ah spi", *number_range(option.value, _MOST), _MOST, negated=option.negated)
    if option.name == "--ahres":
        return (Test("ah reserved", ("0",)),)
    length = int(option.value, 0)
    if length and length not in _LENGTHS:
        return (Test("ah hdrlength", ("0-255",)),) if option.negated else (NEVER,)
    if not length:  # no condition, negated or not (ah_mt6())
        return ()
    return (Test("ah hdrlength", (str(length // 4 - 2),), option.negated),)
