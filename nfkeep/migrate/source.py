"""The source: iptables-save text taken apart into tables, chains and rules, each with the number of its line.

What iptables-restore accepts (iptables/iptables-restore.c): `*table`, `:CHAIN POLICY [packets:bytes]`,
`[packets:bytes] -A CHAIN …`, `COMMIT`, comments, empty lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.model import Counters, Family
from nfkeep.xtables.text import split

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTERS = re.compile(r"\[(\d+):(\d+)\]")
_CHAIN = re.compile(r":(\S+)\s+(\S+)(?:\s+\[(\d+):(\d+)\])?\s*")
_POLICIES = frozenset({"ACCEPT", "DROP", "QUEUE"})
_NO_POLICY = "-"


@attrs.frozen(slots=True)
class SourceRule:
    """One `-A` line: its words behind the chain's name, unquoted, and what it had counted."""

    line: int
    chain: str
    words: tuple[str, ...]
    text: str
    counters: Counters | None = None


@attrs.frozen(slots=True)
class SourceChain:
    """One `:` line with its rules. `policy` is None for a user chain."""

    line: int
    name: str
    policy: str | None
    counters: Counters
    rules: tuple[SourceRule, ...] = ()


@attrs.frozen(slots=True)
class SourceTable:
    """One table from `*name` to `COMMIT`, its chains in the order of their lines."""

    line: int
    name: str
    chains: tuple[SourceChain, ...]


@attrs.frozen(slots=True)
class Source:
    """All tables of one text, in its order."""

    family: Family
    tables: tuple[SourceTable, ...]


def read_source(text: str, family: Family) -> Source:
    """Take iptables-save text apart. Raises InvalidRuleError, which names the line, for what is no such text."""
    tables: list[SourceTable] = []
    table: _Open | None = None
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped[0] == "#":
            continue
        if stripped[0] == "*":
            if table is not None:
                raise _fault(number, f"table {table.name} has no COMMIT before the next one", line)
            table = _Open(number, stripped[1:].strip())
            if any(each.name == table.name for each in tables):
                raise _fault(number, f"there are two tables {table.name}", line)
        elif table is None:
            raise _fault(number, "a table, as *filter, has to come first", line)
        elif stripped == "COMMIT":
            tables.append(table.closed())
            table = None
        elif stripped[0] == ":":
            table.add_chain(number, stripped)
        else:
            table.add_rule(number, stripped)
    if table is not None:
        raise _fault(number, f"the text ends within table {table.name}: it has no COMMIT")
    return Source(family, tuple(tables))


class _Open:
    """A table that is being read."""

    def __init__(self, line: int, name: str) -> None:
        if name not in ("raw", "mangle", "nat", "filter", "security"):
            raise _fault(line, f"there is no table {name!r}")
        self.name = name
        self._line = line
        self._chains: dict[str, SourceChain] = {}
        self._rules: dict[str, list[SourceRule]] = {}

    def add_chain(self, number: int, line: str) -> None:
        found = _CHAIN.fullmatch(line)
        if found is None:
            raise _fault(number, "not a chain's line, as :INPUT ACCEPT [0:0]", line)
        name, policy, packets, octets = found.groups()
        if name in self._chains:
            raise _fault(number, f"there are two chains {name} in table {self.name}", line)
        if policy != _NO_POLICY and policy not in _POLICIES:
            raise _fault(number, f"there is no policy {policy!r}", line)
        counted = Counters(int(packets or 0), int(octets or 0))
        self._chains[name] = SourceChain(number, name, None if policy == _NO_POLICY else policy, counted)
        self._rules[name] = []

    def add_rule(self, number: int, line: str) -> None:
        try:
            words = split(line)
        except InvalidRuleError as error:
            raise _fault(number, str(error)) from None
        counted = None
        if found := _COUNTERS.fullmatch(words[0]):
            counted = Counters(int(found[1]), int(found[2]))
            words = words[1:]
        if len(words) < 2 or words[0] not in ("-A", "--append"):
            raise _fault(number, "not a rule's line, as -A INPUT -j ACCEPT", line)
        chain = words[1]
        if chain not in self._rules:
            raise _fault(number, f"table {self.name} has no chain {chain!r}", line)
        self._rules[chain].append(SourceRule(number, chain, tuple(words[2:]), line, counted))

    def closed(self) -> SourceTable:
        chains = (attrs.evolve(chain, rules=tuple(self._rules[name])) for name, chain in self._chains.items())
        return SourceTable(self._line, self.name, tuple(chains))


def rules_of(source: Source) -> Iterator[tuple[SourceTable, SourceChain, SourceRule]]:
    """Every rule, with its table and its chain."""
    for table in source.tables:
        for chain in table.chains:
            for rule in chain.rules:
                yield table, chain, rule


def _fault(number: int, what: str, line: str = "") -> InvalidRuleError:
    return InvalidRuleError(f"line {number}: {what}", line)
