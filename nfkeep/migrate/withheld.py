"""Words that libxtables cannot read without a kernel that has the set of ipset: withheld from it, and put back.

A match leaves a comment in its place, so that what libxtables prints has it where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLACE = "withheld-{}"


def withhold(
    words: Sequence[str], match_options: Mapping[str, int], target_options: Mapping[str, int]
) -> tuple[list[str], list[tuple[str, ...]], tuple[str, ...]]:
    """The other words, what each `-m set` said, and what `-j SET` said."""
    rest: list[str] = []
    matches: list[tuple[str, ...]] = []
    target: tuple[str, ...] = ()
    at = 0
    while at < len(words):
        said = tuple(words[at : at + 2])
        if said == ("-m", "set"):
            end = _end(words, at + 2, match_options)
            rest += ["-m", "comment", "--comment", _PLACE.format(len(matches))]
            matches.append(tuple(words[at:end]))
        elif said in (("-j", "SET"), ("--jump", "SET")):
            end = _end(words, at + 2, target_options)
            target = ("-j", *words[at + 1 : end])
        else:
            end = at + 1
            rest.append(words[at])
        at = end
    return rest, matches, target


def put_back(words: Sequence[str], matches: Sequence[tuple[str, ...]], target: tuple[str, ...]) -> tuple[str, ...]:
    """The words with what was withheld in its place."""
    result = list(words)
    for number, match in enumerate(matches):
        at = result.index(_PLACE.format(number))
        result[at - 3 : at + 1] = match
    return (*result, *target)


def _end(words: Sequence[str], at: int, options: Mapping[str, int]) -> int:
    """Where the options of the extension before `at` end."""
    while at < len(words):
        name = at + (words[at] == "!")
        if name >= len(words) or words[name] not in options:
            break
        at = name + 1 + options[words[name]]
    return min(at, len(words))
