"""What all rules of a source say about state that they share: lists of recent, sets, tables of hashlimit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.rule import Chains, parse_rule
from nfkeep.migrate.source import Source, SourceRule
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.rule import Extension, ParsedRule
    from nfkeep.migrate.source import SourceTable

T = TypeVar("T")


@attrs.define(slots=True)
class Survey:
    """All rules of the source, read when somebody asks, and the sets of ipset by name."""

    source: Source = attrs.Factory(lambda: Source(Family.IPV4, ()))
    ipsets: Mapping[str, IpSet] = attrs.Factory(dict)
    _parsed: dict[str, tuple[ParsedRule, ...]] = attrs.Factory(dict)
    _known: dict[tuple[object, ...], object] = attrs.Factory(dict)

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` finds out, which is asked only once for each key."""
        if key not in self._known:
            self._known[key] = make()
        return cast("T", self._known[key])

    def matches(self, name: str, option: str, value: str, default: str = "") -> tuple[Extension, ...]:
        """Every match of this name with an option of this value, in the order of the source."""
        return self.once((name, option, default), lambda: self._grouped(name, option, default)).get(value, ())

    def _grouped(self, name: str, option: str, default: str) -> dict[str, tuple[Extension, ...]]:
        groups: dict[str, list[Extension]] = {}
        for match in (match for rule in self._rules(name) for match in rule.matches if match.name == name):
            found = match.option(option)
            groups.setdefault(found.value if found else default, []).append(match)
        return {value: tuple(matches) for value, matches in groups.items()}

    def targets(self, name: str) -> tuple[Extension, ...]:
        """Every target of this name, in the order of the source."""
        return tuple(rule.target for rule in self._rules(name) if rule.target is not None and rule.target.name == name)

    def says(self, *words: str) -> bool:
        """Whether one of these words is in a rule."""
        return any(word in rule.words for table in self.source.tables for rule in _rules_of(table) for word in words)

    def _rules(self, word: str) -> tuple[ParsedRule, ...]:
        if word not in self._parsed:
            self._parsed[word] = tuple(self._parse(word))
        return self._parsed[word]

    def _parse(self, word: str) -> list[ParsedRule]:
        found = []
        for table in self.source.tables:
            user_chains = Chains(frozenset(chain.name for chain in table.chains if chain.policy is None))
            for rule in _rules_of(table):
                if word in rule.words:
                    try:
                        found.append(parse_rule(rule, self.source.family, user_chains))
                    except (Lost, InvalidRuleError):
                        continue  # said where that rule is translated
        return found


def _rules_of(table: SourceTable) -> tuple[SourceRule, ...]:
    return tuple(rule for chain in table.chains for rule in chain.rules)
