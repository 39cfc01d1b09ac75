"""`-m tos`: the type of service, with IPv6 the traffic class, under a mask (tos_mt() in xt_dscp.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import NEVER, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--tos": 1}
_ALL = 0xFF


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test of the raw header; nft has no word for the whole octet."""
    (option,) = match.options
    text, _, mask_text = option.value.partition("/")
    value, mask = int(text, 0), int(mask_text, 0) if mask_text else _ALL
    if not 0 <= value <= _ALL or not 0 <= mask <= _ALL:
        raise ValueError("it is more than an octet")
    if value & ~mask:  # no masked octet can equal it
        return () if option.negated else (NEVER,)
    if not mask:
        return (NEVER,) if option.negated else ()
    if context.v6:  # between the version and the flow label
        return (Test(f"@nh,0,16 & {mask << 4:#06x}", (f"{value << 4:#06x}",), option.negated),)
    left = "@nh,8,8" if mask == _ALL else f"@nh,8,8 & {mask:#04x}"
    return (Test(left, (f"{value:#04x}",), option.negated),)
