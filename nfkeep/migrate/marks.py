"""Arithmetic on marks as MARK and CONNMARK do it: bits taken away, then bits turned over."""

from __future__ import annotations

_ALL = 0xFFFFFFFF


def changed(left: str, value: int, mask: int) -> str | None:
    """`(left & ~mask) ^ value` as nft writes it, None if that changes nothing."""
    if mask == _ALL:
        return f"{value:#x}"
    kept = ~mask & _ALL
    if not mask:
        return f"{left} ^ {value:#x}" if value else None
    if value == mask:
        return f"{left} | {value:#x}"
    return f"{left} & {kept:#x} ^ {value:#x}" if value else f"{left} & {kept:#x}"


def split_mark(text: str) -> tuple[int, int]:
    """`VALUE/MASK`, both hexadecimal or not; without a mask it is all bits."""
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if mask else _ALL
