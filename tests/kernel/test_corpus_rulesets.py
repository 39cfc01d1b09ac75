"""Real rulesets, loaded by iptables: nfkeep reads them as iptables does, and writes them back as they were.

With counters that are not zero, since a replace that loses them would otherwise look the same.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from corpus import IPTABLES, needs_rulesets, rulesets

import nfkeep
from nfkeep import Family, Rule, Table
from nfkeep.namespaces import Namespace
from nfkeep.xtables.tables import TableHandle, in_use

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, needs_rulesets]

_RULE = re.compile(r"(?:\[\d+:\d+\] )?(?:-(?P<only>[46]) )?-A (?P<chain>\S+)\s*(?P<rule>.*)")


@attrs.frozen
class Loaded:
    """A ruleset in a namespace: its rules in order, by table and chain, as they were written."""

    namespace: Namespace
    family: Family
    rules: dict[tuple[str, str], list[str]]

    def saved(self) -> list[str]:
        """All that iptables-save tells, but for the times in its comments."""
        save = f"{IPTABLES[self.family]}-save -c -t"
        saved = [self.namespace.run(f"{save} {table.name}").stdout.splitlines() for table in self.tables()]
        return [line for lines in saved for line in lines if not line.startswith("#")]

    def tables(self) -> list[Table]:
        """All tables as nfkeep reads them."""
        with self.namespace:
            return [nfkeep.read(name, self.family) for name in in_use(self.family)]


@pytest.fixture(params=rulesets(), ids=lambda path: path.name)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """Each ruleset, with counters of its own for every rule and addresses in every list of `recent`."""
    path: Path = request.param
    family = family_of(path)
    text, rules = numbered(path.read_text(), family)
    with contextlib.closing(Namespace()) as namespace:
        done = namespace.run(f"{IPTABLES[family]}-restore -c", input=text, check=False)
        if done.returncode:
            pytest.skip(f"iptables itself cannot load it here: {done.stderr.strip()}")
        with namespace:
            for ban_list in Path("/proc/thread-self/net/xt_recent").glob("*"):
                ban_list.write_text("+2001:db8::7\n" if family is Family.IPV6 else "+198.51.100.7\n")
        yield Loaded(namespace, family, rules)


def test_most_can_be_loaded() -> None:
    """The tests below do not pass by having nothing to work on."""
    with contextlib.closing(Namespace()) as namespace:
        done = [
            namespace.run([f"{IPTABLES[family_of(path)]}-restore", "--test", str(path)], check=False).returncode
            for path in rulesets()
        ]
    assert done.count(0) > 0.8 * len(done)


def test_every_line_is_the_rule_that_iptables_makes_of_it(loaded: Loaded) -> None:
    """Rule.parse() makes the bytes that iptables makes, and prints what iptables-save prints."""
    saved = iter([line for line in loaded.saved() if line.startswith("[")])
    with loaded.namespace:
        for table in loaded.tables():
            for chain in table.chains.values():
                written = loaded.rules.pop((table.name, chain.name), [])
                parsed = [Rule.parse(text, loaded.family) for text in written]
                assert [rule.entry for rule in chain.rules] == [rule.entry for rule in parsed]
                counted = [f"[{rule.counters.packets}:{rule.counters.bytes}]" for rule in chain.rules]
                ours = [f"{n} -A {chain.name} {rule}".rstrip() for n, rule in zip(counted, chain.rules, strict=True)]
                assert ours == [next(saved) for _ in ours]
                assert [Rule.parse(str(rule), loaded.family) for rule in chain.rules] == parsed
    assert (list(saved), loaded.rules) == ([], {})


def test_written_back_as_read_it_is_the_same(loaded: Loaded) -> None:
    """A real replace of every table changes no byte, no counter, no list of `recent`."""
    with loaded.namespace:
        before, saved, lists = loaded.tables(), loaded.saved(), recent_lists()
        for name in in_use(loaded.family):
            with TableHandle(name, loaded.family) as handle:
                handle.commit()
        assert loaded.saved() == saved
        assert [whole(table) for table in loaded.tables()] == [whole(table) for table in before]
        assert recent_lists() == lists


def test_a_rule_that_comes_and_goes_leaves_no_trace(loaded: Loaded) -> None:
    """A transaction puts a rule first in a chain of every table, another takes it out; what is lost has a reason.

    A connlimit count is such where the packets that would bring it back meet other rules that keep state.
    """
    rule = "-p udp --dport 9 -m comment --comment passing"
    with loaded.namespace:
        before, saved, lists = loaded.tables(), loaded.saved(), recent_lists()
        for table in before:
            chain = next(iter(table.chains))
            with nfkeep.transaction(table.name, loaded.family) as tx:
                tx.insert(chain, rule)
            assert [outcome for outcome in tx.report.lost if not outcome.detail] == []
            assert str(nfkeep.read(table.name, loaded.family).chains[chain].rules[0]).endswith("--comment passing")
            with nfkeep.transaction(table.name, loaded.family) as tx:
                tx.delete(chain, rule)
        assert loaded.saved() == saved
        assert [whole(table) for table in loaded.tables()] == [whole(table) for table in before]
        assert recent_lists() == lists


def family_of(path: Path) -> Family:
    """The family that a ruleset is for."""
    return Family.IPV6 if path.suffix == ".v6" else Family.IPV4


def numbered(text: str, family: Family) -> tuple[str, dict[tuple[str, str], list[str]]]:
    """The ruleset with packets and bytes of its own for every rule, and its rules by table and chain."""
    lines: list[str] = []
    rules: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        found = _RULE.match(line)
        if found is None:
            lines.append(line)
            continue
        other = found["only"] is not None and (found["only"] == "6") is not (family is Family.IPV6)
        if not other:  # ip6tables-restore passes over the lines that say -4, iptables-restore over those with -6
            rules.setdefault((table, found["chain"]), []).append(found["rule"])
        number = len(lines)
        lines.append(f"[{number}:{number * 100}] " + line[line.index("-") :])
    return "\n".join(lines) + "\n", rules


def whole(table: Table) -> dict[str, tuple[object, ...]]:
    """All of a table, with bytes and counters, which rules do not compare by."""
    return {
        name: (chain.policy, chain.counters, [(rule.entry, rule.counters) for rule in chain.rules])
        for name, chain in table.chains.items()
    }


def recent_lists() -> dict[str, str]:
    """What is in the lists of `recent` of the calling thread's namespace."""
    return {path.name: path.read_text() for path in Path("/proc/thread-self/net/xt_recent").glob("*")}
