"""The words of a rule put in order for the making of packets: its options with their matches, its target.

Only packets come of this: an option that is unknown here, or read wrongly, costs a packet that would have hit it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTION = re.compile(r"-[A-Za-z]|--[A-Za-z0-9][\w-]*")  # a text in quotes may begin with a dash, too
_LONG = {
    "--source": "-s",
    "--src": "-s",
    "--destination": "-d",
    "--dst": "-d",
    "--protocol": "-p",
    "--proto": "-p",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--fragment": "-f",
    "--match": "-m",
    "--jump": "-j",
    "--goto": "-g",
    "--destination-port": "--dport",
    "--source-port": "--sport",
    "--destination-ports": "--dports",
    "--source-ports": "--sports",
}


@attrs.frozen(slots=True)
class Word:
    """One option: `match` is the module it belongs to ("" in the head of the rule)."""

    match: str
    name: str
    values: tuple[str, ...]
    negated: bool

    @property
    def value(self) -> str:
        """The first value; empty where there is none."""
        return self.values[0] if self.values else ""


@attrs.frozen(slots=True)
class Words:
    """A rule's conditions in order; its target ("" for none) and the target's options."""

    conditions: tuple[Word, ...]
    target: str
    options: tuple[Word, ...]


def read_words(words: Sequence[str]) -> Words:
    """Put the words of a rule in order."""
    conditions: list[Word] = []
    options: list[Word] = []
    match = target = ""
    negated = False
    at = 0
    while at < len(words):
        word = _LONG.get(words[at], words[at])
        at += 1
        if word == "!":
            negated = True
            continue
        if word in ("-m", "-j", "-g") and at < len(words):
            if word == "-m":
                match = words[at]
                conditions.append(Word(match, "-m", (match,), False))
            else:
                target = words[at]
            at += 1
            continue
        values: list[str] = []
        while at < len(words) and not _OPTION.fullmatch(words[at]):
            if words[at] == "!":
                if values or _opens_option(words, at + 1):
                    break
                negated = True  # the old place: --dport ! 22
            else:
                values.append(words[at])
            at += 1
        made = Word("" if word[:2] != "--" else (target or match), word, tuple(values), negated)
        (options if target and word[:2] == "--" else conditions).append(made)
        negated = False
    return Words(tuple(conditions), target, tuple(options))


def _opens_option(words: Sequence[str], at: int) -> bool:
    return at < len(words) and _OPTION.fullmatch(words[at]) is not None
