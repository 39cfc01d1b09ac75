"""The source: iptables-save text taken apart into tables, chains and rules, each with the number of its line.

What iptables-restore accepts (iptables/iptables-restore.c): `*table`, `:CHAIN POLICY [packets:bytes]`,
`[packets:bytes] -A CHAIN …`, `COMMIT`, comments, empty lines. Lines end with a line feed and words with a space or a
tabulator, and with nothing else: a comment may hold any other character.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.model import Counters, Family
from nfkeep.plenty import plenty
from nfkeep.xtables.tables import TABLES
from nfkeep.xtables.text import split

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTERS = re.compile(r"\[([0-9]{1,20}):([0-9]{1,20})\]")
_CHAIN = re.compile(r":([^ \t]+)[ \t]+([^ \t]+)(?:[ \t]+\[([0-9]{1,20}):([0-9]{1,20})\])?")
_LEFT_OUT = re.compile(r"# Table `(\w+)' is incompatible, use 'nft' tool\.")  # iptables/xtables-save.c
_POLICIES = frozenset({"ACCEPT", "DROP", "QUEUE"})
_NO_POLICY = "-"
_FAMILIES = {"-4": Family.IPV4, "--ipv4": Family.IPV4, "-6": Family.IPV6, "--ipv6": Family.IPV6}
_NO_CHAINS = frozenset({"ACCEPT", "DROP", "QUEUE", "RETURN"})  # libiptc's labels
_LONGEST_CHAIN = 28  # XT_EXTENSION_MAXNAMELEN - 1
_LARGEST_COUNT = (1 << 64) - 1
_NOTHING = Counters()


@plenty(slots=True)
class SourceRule:
    """One `-A` line: its words behind the chain's name, unquoted, and what it had counted."""

    line: int
    chain: str
    words: tuple[str, ...]
    text: str
    counters: Counters | None = None


@attrs.frozen(slots=True)
class SourceChain:
    """One `:` line with its rules. `policy` is None for a user chain.

    `assumed`: the text has no policy for this base chain; a host's own is ACCEPT until somebody changes it.
    """

    line: int
    name: str
    policy: str | None
    counters: Counters
    rules: tuple[SourceRule, ...] = ()
    assumed: bool = False


@attrs.frozen(slots=True)
class SourceTable:
    """One table from `*name` to `COMMIT`, its chains in the order of their lines."""

    line: int
    name: str
    chains: tuple[SourceChain, ...]


@attrs.frozen(slots=True)
class Source:
    """All tables of one text, in its order.

    `left_out`: line and name of each table of which iptables-nft-save says that it cannot print it.
    """

    family: Family
    tables: tuple[SourceTable, ...]
    left_out: tuple[tuple[int, str], ...] = ()


def read_source(text: str, family: Family) -> Source:
    """Take iptables-save text apart. Raises InvalidRuleError, which names the line, for what is no such text."""
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise _fault(text.count("\n", 0, error.start) + 1, "a character in it is half of one") from None
    tables: list[SourceTable] = []
    left_out: list[tuple[int, str]] = []
    table: _Open | None = None
    number = 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.removesuffix("\r").strip(" \t")
        if not stripped:
            continue
        if "\0" in stripped:
            raise _fault(number, "there is a NUL character in it", line)
        if stripped[0] == "#":
            if found := _LEFT_OUT.fullmatch(stripped):
                left_out.append((number, found[1]))
        elif stripped[0] == "*":
            if table is not None:
                raise _fault(number, f"table {table.name} has no COMMIT before the next one", line)
            table = _Open(number, stripped[1:].strip(" \t"), family)
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
    return Source(family, tuple(tables), tuple(left_out))


class _Open:
    """A table that is being read."""

    def __init__(self, line: int, name: str, family: Family) -> None:
        if name not in TABLES:
            raise _fault(line, f"there is no table {name!r}")
        self.name = name
        self._family = family
        self._built_in = frozenset(hook.name for hook in TABLES[name].hooks)
        self._line = line
        self._chains: dict[str, SourceChain] = {}
        self._rules: dict[str, list[SourceRule]] = {}

    def add_chain(self, number: int, line: str) -> None:
        found = _CHAIN.fullmatch(line)
        if found is None:
            raise _fault(number, "not a chain's line, as :INPUT ACCEPT [0:0]", line)
        name, policy, packets, octets = found.groups()
        if name in self._chains and not self._chains[name].assumed:
            raise _fault(number, f"there are two chains {name} in table {self.name}", line)
        if policy != _NO_POLICY and policy not in _POLICIES:
            raise _fault(number, f"there is no policy {policy!r}", line)
        built_in = name in self._built_in
        if not built_in:
            self._check_user_chain(number, name, policy, line)
        counted = _counters(number, packets or "0", octets or "0", line)
        assumed = built_in and policy == _NO_POLICY
        kept = ("ACCEPT" if assumed else policy) if built_in else None
        self._chains[name] = SourceChain(number, name, kept, counted, assumed=assumed)
        self._rules.setdefault(name, [])

    def _check_user_chain(self, number: int, name: str, policy: str, line: str) -> None:
        if policy != _NO_POLICY:
            raise _fault(number, f"{name} is no base chain of table {self.name}, so it has no policy", line)
        if name in _NO_CHAINS:
            raise _fault(number, f"{name} is a verdict and cannot be a chain", line)
        if len(name.encode(errors="surrogateescape")) > _LONGEST_CHAIN:
            raise _fault(number, f"a chain's name has at most {_LONGEST_CHAIN} characters", line)

    def add_rule(self, number: int, line: str) -> None:
        try:
            words = split(line)
        except InvalidRuleError as error:
            raise _fault(number, str(error)) from None
        counted = None
        if found := _COUNTERS.fullmatch(words[0]):
            counted = _counters(number, found[1], found[2], line)
            words = words[1:]
        if words and words[0] in _FAMILIES:  # a text for both, of which iptables-restore takes its own lines
            if _FAMILIES[words[0]] is not self._family:
                return
            words = words[1:]
        if len(words) < 2 or words[0] not in ("-A", "--append"):
            raise _fault(number, "not a rule's line, as -A INPUT -j ACCEPT", line)
        chain = words[1]
        if chain not in self._rules:
            if chain not in self._built_in:
                raise _fault(number, f"table {self.name} has no chain {chain!r}", line)
            self._chains[chain] = SourceChain(number, chain, "ACCEPT", Counters(), assumed=True)
            self._rules[chain] = []
        self._rules[chain].append(SourceRule(number, chain, tuple(words[2:]), line, counted))

    def closed(self) -> SourceTable:
        chains = (attrs.evolve(chain, rules=tuple(self._rules[name])) for name, chain in self._chains.items())
        return SourceTable(self._line, self.name, tuple(chains))


def _counters(number: int, packets: str, octets: str, line: str) -> Counters:
    if packets == octets == "0":
        return _NOTHING
    counted = Counters(int(packets), int(octets))
    if max(counted.packets, counted.bytes) > _LARGEST_COUNT:
        raise _fault(number, "a counter is too large", line)
    return counted


def rules_of(source: Source) -> Iterator[tuple[SourceTable, SourceChain, SourceRule]]:
    """Every rule, with its table and its chain."""
    for table in source.tables:
        for chain in table.chains:
            for rule in chain.rules:
                yield table, chain, rule


def _fault(number: int, what: str, line: str = "") -> InvalidRuleError:
    return InvalidRuleError(f"line {number}: {what}", line)
