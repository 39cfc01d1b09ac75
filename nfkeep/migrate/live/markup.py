"""HTML that is put together from elements; text that goes into it is escaped unless it is an element already."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"input", "meta"})


class Html(str):
    """Text that is HTML: only `element`, `joined` and `raw` make it."""

    __slots__ = ()


def element(name: str, /, *inside: str, **attributes: str | bool) -> Html:
    """An element with what is inside, and its attributes: `class_` is class, `data_x` data-x; False leaves one out."""
    words = [name]
    for key, value in attributes.items():
        written = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(written)
        elif value is not False:
            words.append(f'{written}="{_escaped(value)}"')
    opened = f"<{' '.join(words)}>"
    return Html(opened if name in _VOID else f"{opened}{joined(inside)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """The parts one after the other."""
    return Html(_escaped(between).join(map(_escaped, parts)))


def raw(text: str) -> Html:
    """Text that is HTML, or within <style> or <script>, and comes from this package."""
    return Html(text)


def _escaped(text: str) -> str:
    """For everything that may be from outside. What cannot be seen, or turns the reading order around, is spelled out.

    A comment of iptables may hold any bytes, which need not be UTF-8: those come as halves of characters.
    """
    if isinstance(text, Html):
        return text
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return html.escape(text)
