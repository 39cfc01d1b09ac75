"""HTML as a tree, to look at what a browser would: elements, attributes and text, each unescaped."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

VOID = {"input", "meta", "img", "br", "link", "base"}


@attrs.define
class Element:
    """One element; `inside` are elements and texts."""

    name: str
    attributes: dict[str, str | None] = attrs.Factory(dict)
    inside: list[Element | str] = attrs.Factory(list)

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(each if isinstance(each, str) else each.text for each in self.inside)

    def all(self, name: str = "", class_: str = "", **attributes: str) -> Iterator[Element]:
        """Every element inside with this name, this class and these attributes, in the order of the text."""
        for each in self.inside:
            if isinstance(each, Element):
                classes = (each.attributes.get("class") or "").split()
                if (
                    name in ("", each.name)
                    and (not class_ or class_ in classes)
                    and attributes.items() <= each.attributes.items()
                ):
                    yield each
                yield from each.all(name, class_, **attributes)

    def the(self, name: str = "", class_: str = "", **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(name, class_, **attributes)
        return found


def parsed(text: str) -> Element:
    """The document. Raises AssertionError where an end tag is not that of the innermost element."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert builder.open == [builder.root]
    return builder.root


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        made = Element(tag, dict(attributes))
        self.open[-1].inside.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)
