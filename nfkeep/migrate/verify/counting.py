"""What the rules of either host have counted, rule by rule, for the scripts whose rules count as well.

A chain is compared if the script has one of its name, in a table of its table's name, with as many counters as it has
rules: then they stand for each other in their order.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.migrate.script import POLICY
from nfkeep.migrate.source import rules_of
from nfkeep.migrate.verify.observed import TABLE
from nfkeep.migrate.verify.rulesets import saved
from nfkeep.model import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.source import Source, SourceRule
    from nfkeep.model import Family
    from nfkeep.namespaces import Namespace

    ByChain: TypeAlias = dict[tuple[str, str], list[Counters]]

_RULE = re.compile(r"\[(\d+):(\d+)\] -A (\S+)")


@attrs.frozen(slots=True)
class Counted:
    """A rule of the source that has counted otherwise than its counterpart, since the rules were loaded."""

    rule: SourceRule
    table: str
    legacy: Counters
    nft: Counters

    def __str__(self) -> str:
        one, other = self.legacy, self.nft
        counted = f"{one.packets} packets, {one.bytes} bytes; nft: {other.packets} packets, {other.bytes} bytes"
        return f"-t {self.table} {self.rule.text}: iptables counted {counted}"


def of_legacy(namespace: Namespace, family: Family) -> ByChain:
    """The counters of all legacy rules, by table and chain."""
    found: ByChain = {}
    table = ""
    for line in saved(namespace, family):
        if line[:1] == "*":
            table = line[1:]
        elif rule := _RULE.match(line):
            found.setdefault((table, rule[3]), []).append(Counters(int(rule[1]), int(rule[2])))
    return found


def of_nft(namespace: Namespace) -> ByChain:
    """The counters of all rules that have one, by table and chain; of a rule with several, the first.

    Not those of the last rules of base chains that count what policies do (nfkeep.migrate.translation).
    """
    found: ByChain = {}
    for item in json.loads(namespace.run("nft -j list ruleset").stdout)["nftables"]:
        rule = item.get("rule")
        if rule is None or rule["table"] == TABLE or rule.get("comment") == POLICY:
            continue
        for expression in rule["expr"]:
            if isinstance(expression, dict) and isinstance(told := expression.get("counter"), dict):
                counters = Counters(told["packets"], told["bytes"])
                found.setdefault((rule["table"], rule["chain"]), []).append(counters)
                break
    return found


def since(now: ByChain, then: ByChain) -> ByChain:
    """What was counted in between."""

    def difference(one: Counters, other: Counters) -> Counters:
        return Counters(one.packets - other.packets, one.bytes - other.bytes)

    return {key: list(map(difference, counters, then.get(key, []))) for key, counters in now.items()}


def unmet(source: Source, legacy: ByChain) -> set[int]:
    """The lines of the rules that have counted nothing."""
    counted = with_counters(source, legacy)
    return {rule.line for table, rule, place in counted if not legacy[table, rule.chain][place].packets}


def unlike(source: Source, legacy: ByChain, nft: ByChain) -> Iterator[Counted]:
    """The rules whose counters differ, of chains that can be compared."""
    for table, rule, own in with_counters(source, legacy):
        one, other = legacy[table, rule.chain], nft.get((table, rule.chain), [])
        if len(one) == len(other) and other[own] != one[own]:
            yield Counted(rule, table, one[own], other[own])


def with_counters(source: Source, legacy: ByChain) -> Iterator[tuple[str, SourceRule, int]]:
    """Each rule that the counters are known of: its table, itself, its place in its chain."""
    places: dict[tuple[str, str], int] = {}
    for table, _, rule in rules_of(source):
        key = table.name, rule.chain
        place = places[key] = places.get(key, -1) + 1
        if place < len(legacy.get(key, [])):
            yield table.name, rule, place
