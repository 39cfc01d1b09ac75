"""The elements that a set of nft gets from one of ipset, and their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate import names
from nfkeep.migrate.ipset_plain import LINE
from nfkeep.migrate.rates import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.ipset_plain import Plain
    from nfkeep.migrate.ipsets import Element


@attrs.frozen(slots=True)
class Entry:
    """One element for nft. `element` is ipset's, if it is the same one and not a part of it."""

    columns: tuple[str, ...]
    timeout: int
    element: Element | None


@attrs.frozen(slots=True, eq=False)
class Members:
    """All elements: `plain`, or else the `entries`. `counted`: each has a counter.

    `ipset`, `nomatch` and `changing` tell of which set of ipset they are, and how that was written.
    """

    ipset: str
    nomatch: bool
    changing: bool
    counted: bool
    entries: tuple[Entry, ...]
    plain: Plain | None

    def lines(self) -> Iterator[str]:
        """The elements as text, with commas between them; nothing if there are none."""
        if self.plain is not None:
            yield from self.plain.lines()
            return
        line = ""
        for number, entry in enumerate(self.entries, 1):
            text = self._element(entry) + ("," if number < len(self.entries) else "")
            if line and len(line) + len(text) > LINE:
                yield line
                line = ""
            line = f"{line} {text}" if line else text
        if line:
            yield line

    def _element(self, entry: Entry) -> str:
        words = [" . ".join(entry.columns)]
        options = entry.element.options if entry.element else {}
        if self.counted and "packets" in options:
            words.append(f"counter packets {int(options['packets'])} bytes {int(options.get('bytes', '0'))}")
        if entry.timeout:
            words.append(f"timeout {duration(entry.timeout)}")
        if options.get("comment"):
            words.append(names.comment(options["comment"]))
        return " ".join(words)
