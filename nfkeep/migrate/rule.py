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

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.withheld import put_back, withhold
from nfkeep.plenty import plenty
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


@plenty(slots=True)
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


@plenty(slots=True)
class Extension:
    """A match or a target with its options in the order of the text."""

    name: str
    options: tuple[Option, ...] = ()

    def option(self, *names: str) -> Option | None:
        """The first option of one of these names."""
        for each in self.options:  # most have one or two: a generator takes longer
            if each.name in names:
                return each
        return None

    def __str__(self) -> str:
        return " ".join((self.name, *map(str, self.options)))


@plenty(slots=True)
class ParsedRule:
    """A rule with everything in its place. `target` is None where a rule only counts; `goto`: `-g` instead of `-j`."""

    source: SourceRule
    head: tuple[Option, ...]
    matches: tuple[Extension, ...]
    target: Extension | None
    goto: bool = False

    def of_head(self, name: str) -> Option | None:
        """The option of the head of this name: -s, -d, -p, -i, -o or -f."""
        for each in self.head:
            if each.name == name:
                return each
        return None


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


@functools.cache
def match_translator(name: str) -> MatchTranslator | None:
    """The module for a match, None if there is none."""
    return cast("MatchTranslator | None", _module("matches", name)) if name == name.lower() else None


@functools.cache
def target_translator(name: str) -> TargetTranslator | None:
    """The module for a target, None if there is none."""
    return cast("TargetTranslator | None", _module("targets", name)) if name == name.upper() else None


def _module(folder: str, name: str) -> ModuleType | None:
    module = f"nfkeep.migrate.{folder}.{name.lower()}"
    if not _NAME.fullmatch(name) or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module)


class _OtherForm(Exception):
    """The words are not as iptables-save prints them, or say what no module covers."""


@plenty(slots=True)
class Chains:
    """What a rule can jump to: the user chains of its `own` table; and chains that it cannot, `others`."""

    own: frozenset[str]
    others: frozenset[str] = frozenset()


def parse_rule(rule: SourceRule, family: Family, chains: Chains) -> ParsedRule:
    """The first of its `readings`."""
    return next(readings(rule, family, chains))


def readings(rule: SourceRule, family: Family, chains: Chains) -> Iterator[ParsedRule]:
    """The rule as it stands, if it looks as iptables-save prints it; and then as libxtables prints it, if that differs.

    The second reading is for what the first one has no translation for.
    Raises InvalidRuleError, in libxtables' words, for what is no rule; Lost for what nobody here knows.
    """
    unknown = ""
    try:
        yield _placed(rule, rule.words, chains, once=True)
    except _OtherForm as error:
        unknown = str(error)
    try:
        words = _printed(rule, family)
    except InvalidRuleError:
        if unknown:
            raise
        return  # names that only the host knows where the rule comes from: realms, labels, users
    if words == rule.words and not unknown:
        return
    try:
        yield _placed(rule, words, chains, once=False)
    except _OtherForm as error:
        raise Lost(f"{error}", "no translation is known for it; rewrite it by hand") from None


def _printed(rule: SourceRule, family: Family) -> tuple[str, ...]:
    """The words as iptables-save would print them."""
    from nfkeep.xtables.text import split

    words, sets, target = withhold(
        rule.words, _options(match_translator("set"), "-m", "set"), _options(target_translator("SET"), "-j", "SET")
    )
    text = " ".join(map(_quoted, words))
    try:
        return put_back(split(str(Rule.parse(text, family))), sets, target)
    except InvalidRuleError as error:
        if error.reason.startswith("Couldn't load"):
            raise Lost(error.reason, "this extension is not installed here") from None
        raise InvalidRuleError(f"line {rule.line}: {error.reason}", rule.text) from None


def _quoted(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _placed(rule: SourceRule, words: tuple[str, ...], chains: Chains, *, once: bool) -> ParsedRule:
    """Raises _OtherForm for a word that has no place; with `once` also for a second one in the same place."""
    head: list[Option] = []
    matches: list[tuple[str, list[Option]]] = []
    target: tuple[str, list[Option]] | None = None
    goto = False
    here: list[Option] = head
    known: Mapping[str, int] = _HEAD
    seen: set[str] = set()
    at, end = 0, len(words)
    try:
        while at < end:
            name = words[at]
            at += 1
            negated = name == "!"
            if negated:
                name = words[at]
                at += 1
            number = known.get(name)
            if number is not None and name not in seen:
                if once:
                    seen.add(name)
                behind = at + number
                if behind > end:
                    raise IndexError
                here.append(Option(name, words[at:behind], negated))
                at = behind
            elif name == "-m" and not negated:
                match, here = words[at], []
                matches.append((match, here))
                known = _match_options(match)
                at += 1
                seen.clear()
            elif name in ("-j", "-g") and not negated and target is None:
                target, goto = (words[at], []), name == "-g"
                here, known = target[1], {}
                at += 1
                seen.clear()
                if target[0] not in chains.own and (goto or target[0] not in VERDICTS):
                    known = _target_options(rule, target[0], chains, goto=goto)
            else:
                raise _OtherForm(f"{name!r} is not known here")
    except IndexError:
        raise _OtherForm("a word is missing at the end") from None
    ready = tuple([Extension(name, tuple(options)) for name, options in matches])
    return ParsedRule(rule, tuple(head), ready, target and Extension(target[0], tuple(target[1])), goto)


@functools.cache
def _match_options(name: str) -> Mapping[str, int]:
    return _options(match_translator(name), "-m", name)


def _target_options(rule: SourceRule, name: str, chains: Chains, *, goto: bool) -> Mapping[str, int]:
    translator = target_translator(name)
    if goto or (translator is None and name in chains.others):
        raise InvalidRuleError(f"line {rule.line}: the table has no chain {name} that a rule can go to", rule.text)
    return _options(translator, "-j", name)


def _options(translator: MatchTranslator | TargetTranslator | None, letter: str, name: str) -> Mapping[str, int]:
    if translator is None:
        raise _OtherForm(f"{letter} {name} has no translation")
    return translator.OPTIONS
