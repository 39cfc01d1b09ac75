"""The register of generators: who makes the fields for which option."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nfkeep.migrate.verify.words import Word
    from nfkeep.model import Family, Hook

Fields: TypeAlias = "Mapping[str, object]"
"""Fields of a Packet to change, and beside them `state` (see sequences.py), `size` (of the IP packet, in bytes), and
`repeat` (how many packets that differ only in ports that nobody asks for)."""


@attrs.frozen(slots=True)
class Choices:
    """Fields with which an option holds, the plainest first, and with which it fails, boundaries first."""

    holds: tuple[Fields, ...] = ()
    fails: tuple[Fields, ...] = ()

    def negated(self) -> Choices:
        """Those of the opposite."""
        return Choices(self.fails, self.holds)


@attrs.frozen(slots=True)
class Setting:
    """Where the option stands: its family, the hook its packets come through, the protocol that the rule asks for.

    `conditions` are all of the rule, this one included.
    """

    family: Family
    hook: Hook
    protocol: int | None
    conditions: tuple[Word, ...] = ()

    def option(self, match: str, name: str, otherwise: str) -> str:
        """The value of an option of the rule."""
        return next((word.value for word in self.conditions if (word.match, word.name) == (match, name)), otherwise)


_register: dict[tuple[str, str], Callable[[Word, Setting], Choices]] = {}


def generates(
    *names: str, match: str = ""
) -> Callable[[Callable[[Word, Setting], Choices]], Callable[[Word, Setting], Choices]]:
    """Enter a generator for options of these names; `match` where another match has an option of the same name."""

    def enter(function: Callable[[Word, Setting], Choices]) -> Callable[[Word, Setting], Choices]:
        for name in names:
            _register[match, name] = function
        return function

    return enter


def choices_for(word: Word, setting: Setting) -> Choices:
    """The choices for one option; none where nothing is known of it or its values are strange."""
    function = _register.get((word.match, word.name)) or _register.get(("", word.name))
    if function is None:
        return Choices()
    try:
        found = function(word, setting)
    except (OSError, ValueError, KeyError, IndexError, OverflowError):
        return Choices()  # a word that was read wrongly, or a name that is unknown here: no packets from it
    return found.negated() if word.negated else found


def around(low: int, high: int, most: int, least: int = 0) -> tuple[list[int], list[int]]:
    """Boundary values: inside the range, and outside beside it and far from it."""
    inside = list(dict.fromkeys((low, high, (low + high) // 2)))
    outside = [each for each in (low - 1, high + 1, least, most) if least <= each <= most and not low <= each <= high]
    return inside, list(dict.fromkeys(outside))


def number_range(text: str, most: int, separator: str = ":") -> tuple[int, int]:
    """`N`, `N:`, `:N` or `N:M` as two numbers."""
    low, found, high = text.partition(separator)
    first = int(low, 0) if low else 0
    return first, first if not found else int(high, 0) if high else most


def each(name: str, values: tuple[list[int], list[int]]) -> Choices:
    """A field with values with which the option holds, and fails."""
    return Choices(tuple({name: value} for value in values[0]), tuple({name: value} for value in values[1]))
