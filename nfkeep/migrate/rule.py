"""One rule of the source, its words put into their places: the conditions of its head, its matches, its target.

Text from iptables-save goes straight through. What was written by hand (`--destination-port ssh`) is not in that form:
libxtables reads it then, and what it prints is taken instead. No kernel and no rights are needed for either.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, Protocol, cast

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.loss import Lost
from nfkeep.xtables.text import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Rows, Simple
    from nfkeep.migrate.source import SourceRule
    from nfkeep.model import Family

_HEAD = {"-s": 1, "-d": 1, "-p": 1, "-i": 1, "-o": 1, "-f": 0}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
VERDICTS = frozenset({"ACCEPT", "DROP", "QUEUE", "RETURN"})


@attrs.frozen(slots=True)
class Option:
    """One option as iptables-save prints it: `! --dport 22` is ("--dport", ("22",), negated)."""

    name: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        return " ".join((*(["!"] if self.negated else []), self.name, *self.values))

    @property
    def value(self) -> str:
        """The only value."""
        (value,) = self.values
        return value


@attrs.frozen(slots=True)
class Extension:
    """A match or a target with its options in the order of the text."""

    name: str
    options: tuple[Option, ...] = ()

    def option(self, *names: str) -> Option | None:
        """The first option of one of these names."""
        return next((each for each in self.options if each.name in names), None)

    def __str__(self) -> str:
        return " ".join((self.name, *map(str, self.options)))


@attrs.frozen(slots=True)
class ParsedRule:
    """A rule with everything in its place. `target` is None where a rule only counts; `goto`: `-g` instead of `-j`."""

    source: SourceRule
    head: tuple[Option, ...]
    matches: tuple[Extension, ...]
    target: Extension | None
    goto: bool = False

    def of_head(self, name: str) -> Option | None:
        """The option of the head of this name: -s, -d, -p, -i, -o or -f."""
        return next((each for each in self.head if each.name == name), None)


class MatchTranslator(Protocol):
    """What a module in `matches` offers; its name is the match's.

    `OPTIONS` is the table of what it covers: options as iptables-save prints them, and how many values each has.
    """

    OPTIONS: Mapping[str, int]

    def translate(self, match: Extension, context: Context) -> tuple[Part, ...]:
        """The parts that stand for it, in order. Raises Lost for what nft cannot express."""


class TargetTranslator(Protocol):
    """What a module in `targets` offers; its name is the target's in small letters. `OPTIONS` as those of a match."""

    OPTIONS: Mapping[str, int]

    def translate(self, target: Extension, context: Context) -> tuple[Simple, ...] | Rows:
        """The statements that stand for it, a verdict last if it has one. Raises Lost for what nft cannot express."""


def match_translator(name: str) -> MatchTranslator | None:
    """The module for a match, None if there is none."""
    return cast("MatchTranslator | None", _module("matches", name)) if name == name.lower() else None


def target_translator(name: str) -> TargetTranslator | None:
    """The module for a target, None if there is none."""
    return cast("TargetTranslator | None", _module("targets", name)) if name == name.upper() else None


@functools.cache
def _module(folder: str, name: str) -> ModuleType | None:
    module = f"nfkeep.migrate.{folder}.{name.lower()}"
    if not _NAME.fullmatch(name) or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module)


class _OtherForm(Exception):
    """The words are not as iptables-save prints them, or say what no module covers."""


def parse_rule(rule: SourceRule, family: Family, chains: frozenset[str]) -> ParsedRule:
    """Put a rule's words into their places; `chains` are the user chains of its table.

    Raises InvalidRuleError, in libxtables' words, for what is no rule; Lost for what nobody here knows.
    """
    try:
        return _placed(rule, rule.words, chains)
    except _OtherForm as error:
        unknown = str(error)
    words = _printed(rule, family)
    try:
        return _placed(rule, words, chains)
    except _OtherForm:
        raise Lost(unknown, "no translation is known for it; rewrite it by hand") from None


def printed_rule(rule: SourceRule, family: Family, chains: frozenset[str]) -> ParsedRule | None:
    """The rule as iptables-save prints it, with names of ports and types as numbers; None if it is in that form.

    Raises as parse_rule does.
    """
    words = _printed(rule, family)
    try:
        return None if words == rule.words else _placed(rule, words, chains)
    except _OtherForm:
        return None


def _printed(rule: SourceRule, family: Family) -> tuple[str, ...]:
    """The words as iptables-save would print them."""
    from nfkeep.xtables.text import split

    text = " ".join(map(_quoted, rule.words))
    try:
        return tuple(split(str(Rule.parse(text, family))))
    except InvalidRuleError as error:
        if error.reason.startswith("Couldn't load"):
            raise Lost(error.reason, "this extension is not installed here") from None
        raise InvalidRuleError(f"line {rule.line}: {error.reason}", rule.text) from None


def _quoted(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _placed(rule: SourceRule, words: tuple[str, ...], chains: frozenset[str]) -> ParsedRule:
    head: list[Option] = []
    matches: list[tuple[str, list[Option]]] = []
    target: tuple[str, list[Option]] | None = None
    goto = False
    here: list[Option] = head
    known: Mapping[str, int] = _HEAD
    following = iter(words)
    for word in following:
        negated = word == "!"
        name = _next(following) if negated else word
        if name == "-m" and not negated:
            matches.append((_next(following), []))
            here, known = matches[-1][1], _options(match_translator(matches[-1][0]), f"-m {matches[-1][0]}")
        elif name in ("-j", "-g") and not negated and target is None:
            target, goto = (_next(following), []), name == "-g"
            here, known = target[1], {}
            if target[0] not in chains and target[0] not in VERDICTS:
                known = _options(target_translator(target[0]), f"-j {target[0]}")
        elif name in known:
            here.append(Option(name, tuple(_next(following) for _ in range(known[name])), negated))
        else:
            raise _OtherForm(f"{name!r} is not known here")
    ready = tuple(Extension(name, tuple(options)) for name, options in matches)
    return ParsedRule(rule, tuple(head), ready, target and Extension(target[0], tuple(target[1])), goto)


def _options(translator: MatchTranslator | TargetTranslator | None, what: str) -> Mapping[str, int]:
    if translator is None:
        raise _OtherForm(f"{what} has no translation")
    return translator.OPTIONS


def _next(words: Iterator[str]) -> str:
    try:
        return next(words)
    except StopIteration:
        raise _OtherForm("a word is missing at the end") from None
