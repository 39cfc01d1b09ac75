"""The fewest rules of a source that still show a difference: delta debugging over its lines (Zeller, ddmin)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from nfkeep.errors import NfkeepError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nfkeep.migrate.verify.harness import Harness
    from nfkeep.migrate.verify.packet import Packet
    from nfkeep.model import Family

    Translate: TypeAlias = Callable[[str, Family], str]


def rule_lines(text: str) -> list[int]:
    """The numbers of the lines that are rules, from 0."""
    return [number for number, line in enumerate(text.splitlines()) if line.lstrip()[:1] in ("-", "[")]


def without(text: str, lines: set[int]) -> str:
    """The text without some of its lines."""
    return "".join(line + "\n" for number, line in enumerate(text.splitlines()) if number not in lines)


def fewest_rules(harness: Harness, text: str, translate: Translate, packets: Sequence[Packet]) -> str | None:
    """The source text cut down to what still treats one of `packets` differently; None if the whole does not."""
    numbers = rule_lines(text)

    def differs(kept: Sequence[int]) -> bool:
        cut = without(text, set(numbers) - set(kept))
        try:
            return bool(harness.compare(cut, translate(cut, harness.family), packets, first=True).differences)
        except NfkeepError:  # what is left is no ruleset any more
            return False

    if not differs(numbers):
        return None
    kept = _least(numbers, differs)
    return without(text, set(numbers) - set(kept))


def _least(items: list[int], differs: Callable[[Sequence[int]], bool]) -> list[int]:
    parts = 2
    while len(items) > 1:
        size = -(-len(items) // parts)
        pieces = [items[at : at + size] for at in range(0, len(items), size)]
        for piece in pieces:
            rest = [each for each in items if each not in piece]
            if parts > 2 and differs(piece):
                items, parts = piece, 2
                break
            if differs(rest):
                items, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(items):
                break
            parts = min(len(items), parts * 2)
    return items if items and not differs([]) else []
