"""`-m u32`: numbers of 32 bits anywhere in a packet (u32_match_it() in xt_u32.c)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, NoneOf, Test
from nfkeep.migrate.values import merged

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--u32": 1}
_MOST = 0xFFFFFFFF
_FARTHEST = 255  # nft_payload_policy in nft_payload.c
_STEP = re.compile(r"(&|<<|>>|@)(\w+)")
_LOCATION = re.compile(rf"(\w+)((?:{_STEP.pattern})*)")

# The jumps that nft knows: over the header of IPv4 by its length (0>>22&0x3C@), then over that of TCP (12>>26&0x3C@).
_OVER_IP = ("nh", 0, 0x0F000000, 22)
_OVER_TCP = ("th", 12, 0xF0000000, 26)


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """All of its tests; negated, that one of them does not hold, be it that the packet is too short."""
    (option,) = match.options
    texts = re.sub(r"\s", "", option.value).split("&&")
    tests = tuple(_test(text, context) for text in texts)
    possible = tuple(test for test in tests if test is not None)
    if len(possible) < len(tests):
        return () if option.negated else (NEVER,)
    if not context.defragmented and any(not test.left.startswith("@nh") for test in possible):
        context.approximate_in_general(
            "-m u32",
            "iptables looks behind the header of IP in later fragments too, nft may not",
            "use conntrack, which puts packets together",
        )
    return (NoneOf((possible,)),) if option.negated else possible


def _test(text: str, context: Context) -> Test | None:
    """`LOCATION=VALUES`; None if no number can be so."""
    location, equal, values_text = text.partition("=")
    if not equal:
        raise ValueError(f"{text!r} has no values")
    left, mask, shift = _place(location, context)
    within = tuple(_shifted(_values(each), shift) for each in values_text.split(","))
    ranges = merged((low, min(high, mask)) for low, high in within)
    if not mask:  # the number is 0, if there is one
        ranges = ((0, _MOST),) if ranges else ()
    if not ranges:
        return None
    values = tuple(f"{low:#x}" if low == high else f"{low:#x}-{high:#x}" for low, high in ranges)
    return Test(left if mask in (0, _MOST) else f"{left} & {mask:#x}", values)


def _place(text: str, context: Context) -> tuple[str, int, int]:
    """Where to look, the bits of the 32 there that are left, and by how many these have been shifted to the right."""
    found = _LOCATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no location")
    base, place, mask, shift = "nh", int(found[1], 0), _MOST, 0
    for operator, number_text in _STEP.findall(found[2]):
        number = int(number_text, 0)
        if operator == "@":
            base, place, mask, shift = _behind((base, place, mask, shift), context), number, _MOST, 0
        elif operator == "&":
            mask &= number << shift if shift >= 0 else number >> -shift
        elif number >= 32:
            raise ValueError(f"a shift by {number}")
        elif operator == ">>":
            shift += number
            mask = mask >> shift << shift if shift > 0 else mask
        else:
            shift -= number
            mask &= _MOST >> -shift if shift < 0 else _MOST
    if place > _FARTHEST:
        raise Lost(f"nft sees no further than {_FARTHEST} bytes behind the beginning of a header", "look nearer")
    return f"@{base},{place * 8},32", mask, shift


def _behind(reached: tuple[str, int, int, int], context: Context) -> str:
    if reached == _OVER_IP and not context.v6:
        return "th"
    if reached == _OVER_TCP and context.protocol == "tcp":
        return "ih"
    raise Lost("nft cannot jump by a number in the packet, except over the headers of IPv4 and (with -p tcp) TCP")


def _values(text: str) -> tuple[int, int]:
    first, given, last = text.partition(":")
    low = int(first, 0)
    return low, int(last, 0) if given else low


def _shifted(values: tuple[int, int], shift: int) -> tuple[int, int]:
    """The numbers that give these when shifted to the right, or with a negative shift to the left."""
    low, high = values
    if shift >= 0:
        return low << shift, high << shift
    return -(-low >> -shift), high >> -shift
