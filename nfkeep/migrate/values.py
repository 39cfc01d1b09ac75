"""Values of iptables' options as nft writes them: addresses with masks, ranges, marks, protocols."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, Test

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.migrate.parts import Part


_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
ADDRESS = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}", re.ASCII)
"""An address of IPv4 as everybody writes it."""


def address_test(left: str, value: str, *, v6: bool, negated: bool = False) -> tuple[Part, ...]:
    """Whether an address is within `address[/length|/mask]`; no part at all if every one is."""
    text, _, mask_text = value.partition("/")
    if not v6 and mask_text == "32" and ADDRESS.fullmatch(text):
        return (Test(left, (text,), negated),)
    bits = 128 if v6 else 32
    full = (1 << bits) - 1
    try:
        address = _number(text, v6)
        if not mask_text:
            mask = full
        elif mask_text.isdecimal():
            mask = full ^ (full >> int(mask_text))
        else:
            mask = _number(mask_text, v6)
    except (ValueError, OSError):
        raise Lost(f"{value} is no address with a prefix or a mask", "names are not looked up") from None
    if mask_text.isdecimal() and int(mask_text) > bits:
        raise Lost(f"{value} has a prefix longer than {bits}")
    if not mask:
        return (NEVER,) if negated else ()
    prefix = _length(mask, bits)
    plain = _text(address & mask, v6)
    if prefix is None:
        return (Test(f"{left} & {_text(mask, v6)}", (plain,), negated),)
    return (Test(left, (plain if prefix == bits else f"{plain}/{prefix}",), negated),)


def number_range(value: str, most: int, separator: str = ":") -> tuple[int, int]:
    """`5` and `5:9`, `:9`, `5:` as first and last."""
    first, given, last = value.partition(separator)
    try:
        low = int(first, 0) if first else 0
        high = (int(last, 0) if last else most) if given else low
    except ValueError:
        raise Lost(f"{value!r} is no number or range") from None
    if not 0 <= low <= most or not 0 <= high <= most:
        raise Lost(f"{value!r} is out of range: 0 to {most}")
    return low, high


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges in order, each number in one of them only, as nft wants a set to be; what is upside down is empty."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(each for each in ranges if each[0] <= each[1]):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def header_range(left: str, low: int, high: int, most: int, *, negated: bool = False) -> tuple[Part, ...]:
    """Whether a number in a header is within low..high. All numbers are still a condition: there has to be a header."""
    if low > high:
        low, high, negated = 0, most, not negated
    if low == 0 and high == most:
        return (NEVER,) if negated else (Test(left, (f"0-{most}",)),)
    return (Test(left, (str(low) if low == high else f"{low}-{high}",), negated),)


def masked_test(left: str, value: str, *, bits: int = 32, negated: bool = False) -> tuple[Part, ...]:
    """`VALUE[/MASK]` as marks have it: the bits of the mask equal the value's, all of its bits."""
    number, _, mask_text = value.partition("/")
    full = (1 << bits) - 1
    wanted, mask = int(number, 0), int(mask_text, 0) if mask_text else full
    if wanted & ~mask & full:  # no masked number can equal it
        return () if negated else (NEVER,)
    if not mask:
        return (NEVER,) if negated else ()
    return (Test(left if mask == full else f"{left} & {mask:#x}", (f"{wanted:#x}",), negated),)


def _number(text: str, v6: bool) -> int:
    return int.from_bytes(socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, text), "big")


def _text(number: int, v6: bool) -> str:
    if not v6:
        return socket.inet_ntop(socket.AF_INET, number.to_bytes(4, "big"))
    text = socket.inet_ntop(socket.AF_INET6, number.to_bytes(16, "big"))
    if "." in text:  # the last 32 bits, which nft does not read everywhere
        return f"{text.rpartition(':')[0]}:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}"
    return text


def _length(mask: int, bits: int) -> int | None:
    """The length of the prefix that a mask stands for, None if it has gaps."""
    inverse = mask ^ ((1 << bits) - 1)
    return bits - inverse.bit_length() if inverse & (inverse + 1) == 0 else None
