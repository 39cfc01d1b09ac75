"""Rules laid out as nft chains: choices that no single nft rule can make get chains of their own.

iptables' rule "these parts, then this action" becomes one nft rule wherever its parts are simple. A choice becomes a
chain: the ways of AnyOf each go to the rest of the rule, those of NoneOf return. Where the action itself leaves the
chain (RETURN, `-g`), a return out of such a chain would come out at the wrong place: each way of AnyOf becomes a rule
then; if that cannot be, the rest of the chain is a chain too, and everything goes there by goto.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, TypeVar

import attrs

from nfkeep.migrate.parts import NEVER, AnyOf, NoneOf, Rows, Statement, Test
from nfkeep.plenty import plenty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nfkeep.migrate.parts import Part, Simple


_MOST_WAYS = 64
_CHOICES = (AnyOf, NoneOf)


@plenty(slots=True)
class Line:
    """One nft rule, or with `remark` a line that begins with `#`. `source`: the line of the rule it stands for.

    `also`: the lines of further rules, if it stands for several.
    """

    parts: tuple[Simple, ...] = ()
    remark: str = ""
    source: int = 0
    also: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"# {self.remark}" if self.remark else " ".join(map(str, self.parts))


@attrs.define(slots=True)
class Chain:
    """An nft chain. `base` is its line of type, hook, priority and policy, "" for others; `helpers` belong to it."""

    name: str
    base: str = ""
    origin: str = ""
    lines: list[Line] = attrs.Factory(list)
    helpers: list[Chain] = attrs.Factory(list)

    def add(self, parts: Sequence[Simple], source: int = 0) -> None:
        """Add a rule."""
        self.lines.append(Line(tuple(parts), source=source))

    def remark(self, text: str, source: int = 0) -> None:
        """Add a line for people; with `source` it is all that stands for a rule."""
        self.lines.append(Line(remark=text, source=source))


@plenty(slots=True)
class Action:
    """What a rule does in the end: its statements, the last one perhaps a verdict; `leaves`: it returns, or goes.

    `remark` is the comment, which nft wants last; `rows` are rules of their own that follow the statements.
    """

    statements: tuple[Simple, ...]
    remark: tuple[Statement, ...] = ()
    leaves: bool = False
    rows: tuple[tuple[Simple | Rows, ...], ...] = ()


@attrs.define(slots=True)
class Layout:
    """The chain that is being written, and how to have another one."""

    chain: Chain
    new_chain: Callable[[str], Chain]

    def add(self, parts: Sequence[Part], action: Action, source: int) -> None:
        """Write one rule of iptables at the end of the chain."""
        if not action.rows and not _has_choice(parts):  # most rules
            ready = _tidied_tests(parts)
            self.chain.lines.append(Line((*ready, *action.statements, *action.remark), source=source))  # type: ignore[arg-type]
            return
        ready = tidied(parts)
        if action.rows:
            body = self._body(action.rows, source)
            action = Action((*action.statements, Statement(f"jump {body.name}")), action.remark)
        simple = not _has_choice(ready)
        if not simple and NEVER in ready:
            ready = ready[: ready.index(NEVER)]
            if not any(map(_acts, ready)):
                self.chain.remark(f"line {source}: no packet matches this rule", source)
                return
            action = Action(())  # what comes first, as a list of recent that is added to, happens all the same
            simple = not _has_choice(ready)
        if simple:
            self.chain.add((*ready, *action.statements, *action.remark), source)  # type: ignore[arg-type]
        elif action.leaves:
            self._leave(ready, action, source)
        else:
            _fork(self.chain, ready, action, source, "jump", self._helper, None)

    def _body(self, rows: Sequence[Sequence[Simple | Rows]], source: int) -> Chain:
        body = self._helper()
        for row in rows:
            simple = [Statement(f"goto {self._body(p.rows, source).name}") if isinstance(p, Rows) else p for p in row]
            body.add(simple, source)
        return body

    def _helper(self) -> Chain:
        return self._another("rule")

    def _another(self, what: str) -> Chain:
        made = self.new_chain(f"{self.chain.name}-{what}")
        self.chain.helpers.append(made)
        return made

    def _leave(self, parts: Sequence[Part], action: Action, source: int) -> None:
        if ways := _all_ways(parts):
            counted, *others = action.statements
            for way in ways:
                self.chain.add((*way, counted, *others, *action.remark), source)
                counted = Statement("counter")  # what was counted stands in the first one
            return
        here, rest = self.chain, self._another("rest")
        _fork(here, parts, action, source, "goto", self._helper, rest)
        here.add((Statement(f"goto {rest.name}"),), source)
        self.chain = rest


def _all_ways(parts: Sequence[Part]) -> list[tuple[Simple, ...]]:
    """All ways through the parts, each a rule of its own; none if too many, or if trying twice matters."""
    choices: list[tuple[tuple[Simple, ...], ...]] = []
    for part in parts:
        if isinstance(part, NoneOf) or (isinstance(part, AnyOf) and part.otherwise):
            return []
        choices.append(part.ways if isinstance(part, AnyOf) else ((part,),))
    if math.prod(map(len, choices)) > _MOST_WAYS:
        return []
    ways = [_apart(tuple(itertools.chain(*way))) for way in itertools.product(*choices)]
    return ways if all(isinstance(each, Test) for way in ways for each in way) else []


def _acts(part: Part) -> bool:
    """Whether it may do more than look at the packet."""
    if isinstance(part, _CHOICES):
        return any(isinstance(each, Statement) for way in part.ways for each in way)
    return isinstance(part, Statement)


def _fork(
    chain: Chain,
    parts: Sequence[Part],
    action: Action,
    source: int,
    verb: str,
    helper: Callable[[], Chain],
    rest: Chain | None,
) -> None:
    """Write parts and action into `chain`. `rest`: where a packet goes on that does not match, instead of returning."""
    at = next((n for n, part in enumerate(parts) if isinstance(part, _CHOICES)), None)
    if at is None:
        chain.add((*parts, *action.statements, *action.remark), source)  # type: ignore[arg-type]
        return
    choice = parts[at]
    assert isinstance(choice, _CHOICES)
    inner = helper()
    chain.add((*parts[:at], Statement(f"{verb} {inner.name}")), source)  # type: ignore[arg-type]
    if isinstance(choice, AnyOf):
        behind = helper()
        for way in choice.ways:
            inner.add((*way, Statement(f"goto {behind.name}")), source)
        if choice.otherwise:
            inner.add((Statement(choice.otherwise),), source)
    else:
        behind = inner
        out = Statement("return" if rest is None else f"goto {rest.name}")
        for way in choice.ways:
            inner.add((*way, out), source)
    _fork(behind, parts[at + 1 :], action, source, verb, helper, rest)
    if rest is not None:
        for each in {id(inner): inner, id(behind): behind}.values():
            each.add((Statement(f"goto {rest.name}"),), source)


def tidied(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts with simple choices written as sets, and without what others imply."""
    if not _has_choice(parts):
        return _tidied_tests(parts)
    simple = [part for each in parts for part in _simplified(each)]
    needed = [
        part
        for n, part in enumerate(simple)
        if not (isinstance(part, Test) and part.left in _PROTOCOL and _implied(part, simple, n + 1))
    ]
    return _apart(_once(needed))


def _tidied_tests(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same for parts without a choice, which most rules have: in one go."""
    kept: list[Part] = []
    negated = 0
    for number, part in enumerate(parts, 1):
        if isinstance(part, Test):
            if (part.left in _PROTOCOL and _implied(part, parts, number)) or part in kept:
                continue
            negated += part.negated
        kept.append(part)
    return _apart(tuple(kept)) if negated > 1 else tuple(kept)


def _has_choice(parts: Iterable[Part]) -> bool:
    for part in parts:  # noqa: SIM110 (most rules have two or three parts: a generator takes longer)
        if isinstance(part, _CHOICES):
            return True
    return False


def _once(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts without tests that an earlier one has made already."""
    kept: list[Part] = []
    for part in parts:
        if part not in kept or not _tests_only(part):
            kept.append(part)
    return tuple(kept)


def _tests_only(part: Part) -> bool:
    ways = part.ways if isinstance(part, _CHOICES) else ((part,),)
    return all(isinstance(each, Test) for way in ways for each in way)


def _simplified(part: Part) -> tuple[Part, ...]:
    if not isinstance(part, _CHOICES):
        return (part,)
    if isinstance(part, NoneOf):
        if () in part.ways:
            return (NEVER,)
        return (part,) if part.ways else ()
    if () in part.ways:
        return ()
    if part.otherwise:
        return (part,)
    if len(part.ways) == 1:
        return part.ways[0]
    tests = [way[0] for way in part.ways if len(way) == 1]
    if len(tests) == len(part.ways) and part.ways:
        lefts = {(each.left, each.negated) if isinstance(each, Test) else None for each in tests}
        if len(lefts) == 1 and None not in lefts and not tests[0].negated:  # type: ignore[union-attr]
            values = dict.fromkeys(value for each in tests for value in each.values)  # type: ignore[union-attr]
            if not any(value.startswith("@") for value in values):  # sets cannot be members of a set
                return (Test(tests[0].left, tuple(values)),)  # type: ignore[union-attr]
    return (part,)


_NUMBER = re.compile(r"\d+|0x[\da-f]+")
_P = TypeVar("_P", bound="Part")


def _apart(parts: tuple[_P, ...]) -> tuple[_P, ...]:
    """The same parts, with no two that nft would wrongly put together.

    nft (1.0.6 at least: payload_do_merge() in rule.c) makes one comparison of two neighbouring fields of a header, also
    where both are to differ, and then it is enough that one of them does. Ranges it leaves alone.
    """
    apart: list[_P] = []
    unequal = False
    for part in parts:
        if isinstance(part, Test) and part.negated and len(part.values) == 1:
            value = part.values[0]
            divided = unequal and "&" not in part.left and _NUMBER.fullmatch(value)
            apart.append(attrs.evolve(part, values=(f"{value}-{value}",)) if divided else part)
            unequal = True
        elif isinstance(part, _CHOICES):
            apart.append(attrs.evolve(part, ways=tuple(map(_apart, part.ways))))
        else:
            apart.append(part)
    return tuple(apart)


_PROTOCOL = frozenset({"ip protocol", "meta l4proto"})


def _implied(part: Test, parts: Sequence[Part], later: int) -> bool:
    """Whether one of the tests from there on says the same as one of a protocol: `tcp dport 22` looks at tcp only."""
    if part.negated or len(part.values) != 1:
        return False
    for each in parts[later:]:
        if not isinstance(each, Test):
            return False
        if each.left.startswith(f"{part.values[0]} "):
            return True
    return False
