"""Rule text and rule bytes, one from the other, for every extension that the installed iptables has.

Importing this module gives `Rule.parse` and `str(rule)` their meaning.
"""

from __future__ import annotations

import re

from nfkeep import model
from nfkeep.errors import InvalidRuleError
from nfkeep.model import Family, Rule
from nfkeep.xtables import _ffi

__all__ = ["Rule", "parse", "split"]


_MEANS_MORE = re.compile(r"['\\\0\v\f\r\x1c-\x1f\x80-\U0010ffff]")  # and what Python takes for a space
_SPACES = " \t\n"


def parse(text: str, family: Family) -> Rule:
    """The rule that `text` describes, without `-A CHAIN`; raises InvalidRuleError."""
    entry, counters = _ffi.parse_words(split(text), family)
    return Rule(family, entry, counters)


def split(text: str) -> list[str]:
    r"""The words of a rule line, quoted as iptables-save quotes them.

    Double quotes group, with `\` before a quote or a backslash inside; single quotes group as in a shell; a backslash
    elsewhere is a character like any other, as in iptables-restore.
    """
    if _MEANS_MORE.search(text) is None:
        if '"' not in text:
            return text.split()
        if words := _simply_quoted(text.split('"')):
            return words
    words = []
    word: list[str] | None = None
    quote = ""
    characters = iter(text)
    for character in characters:
        if character == "\0":
            raise InvalidRuleError("a rule cannot hold a NUL character", text)
        if quote:
            assert word is not None
            if character == quote:
                quote = ""
            elif character == "\\" and quote == '"':
                word.append(next(characters, "\\"))
            else:
                word.append(character)
        elif character in "\"'":
            quote = character
            word = word if word is not None else []
        elif character in _SPACES:
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = word if word is not None else []
            word.append(character)
    if quote:
        raise InvalidRuleError(f"a {quote} is opened and never closed", text)
    if word is not None:
        words.append("".join(word))
    return words


def _simply_quoted(pieces: list[str]) -> list[str]:
    """The words, if each pair of quotes is around a whole one; every second piece was within quotes. Else none."""
    outside = pieces[::2]
    if (
        len(pieces) % 2 == 0
        or not all(outside[1:-1])
        or any(piece and piece[-1] not in _SPACES for piece in outside[:-1])
        or any(piece and piece[0] not in _SPACES for piece in outside[1:])
    ):
        return []
    words: list[str] = []
    for number, piece in enumerate(pieces):
        words += [piece] if number % 2 else piece.split()
    return words


class _Codec:
    def parse(self, text: str, family: Family) -> Rule:
        return parse(text, family)

    def format(self, rule: Rule) -> str:
        return _ffi.format_entry(rule.entry, rule.family)

    def same(self, one: Rule, other: Rule) -> bool:
        try:
            text = self.format(one)
            if text != self.format(other):
                return False
            parse(text, one.family)
        except InvalidRuleError:  # an extension that nobody here can read: the text hides what is in it
            return False
        return True


model.install_codec(_Codec())
