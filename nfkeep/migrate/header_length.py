"""Lengths of extension headers of IPv6, which count in eights of bytes (ipv6_optlen() in <net/ipv6.h>)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import NEVER, Test

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Option

_LENGTHS = range(8, 8 * 257, 8)


def length_test(header: str, option: Option) -> tuple[Part, ...]:
    """Whether a header, as nft names it, is as many bytes long as the option says."""
    length = int(option.value, 0)
    if length not in _LENGTHS:
        return (Test(f"{header} hdrlength", ("0-255",)),) if option.negated else (NEVER,)
    return (Test(f"{header} hdrlength", (str(length // 8 - 1),), option.negated),)
