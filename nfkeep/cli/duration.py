"""Spans of time as people write them: `90s`, `1h30m`, `7d`, `forever`; and how commands show them."""

from __future__ import annotations

import math
import re

import click

__all__ = ["seconds", "words"]


def seconds(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """The callback of an option: its value in seconds, `forever` as math.inf; a number without a unit is seconds."""
    if text is None:
        return None
    if text == "forever":
        return math.inf
    match = _SPAN.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r:.40} is no span of time; write 90s, 1h30m, 7d, or forever", ctx, option)
    sizes = (*_UNITS.values(), 1)
    total = sum(int(count) * size for count, size in zip(match.groups(), sizes, strict=True) if count)
    if not total:
        raise click.BadParameter("a ban lasts more than 0 seconds", ctx, option)
    return float(total)


def words(span: float | None) -> str:
    """Seconds as `6d23h` or `59m59s`: the two largest units up to days, rounded down; None is `forever`."""
    if span is None or math.isinf(span):
        return "forever"
    rest, parts = int(span), []
    for unit, size in [*_UNITS.items()][1:]:
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


_UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile("(?=.)" + "".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _UNITS) + r"|(\d{1,10})", re.ASCII)
