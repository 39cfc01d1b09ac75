"""What each line of the source became can be looked up, helper chains, runs and admissions included."""

from __future__ import annotations

import re

import pytest

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate.counterparts import NftRule
from nfkeep.migrate.translation import Translation, translate

INPUT = "type filter hook input priority 0; policy accept;"


def filtered(*rules: str, family: Family = Family.IPV4, optimize: bool = False) -> Translation:
    """A table filter with these rules from line 3 on."""
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""])
    return translate(text, family, optimize=optimize)


def texts(done: Translation, line: int) -> list[tuple[str, str]]:
    """Chain and text of each rule that stands for a line."""
    return [(rule.chain, rule.text) for rule in done.counterparts()[line].rules]


def test_one_rule_for_one_rule() -> None:
    """It is the rule with its table and its chain; that of the policy stands for the chain's line."""
    done = filtered("-A INPUT -s 192.0.2.1/32 -j DROP")
    assert done.counterparts()[3].rules == (NftRule("ip filter", "INPUT", INPUT, "ip saddr 192.0.2.1 counter drop"),)
    assert texts(done, 2) == [("INPUT", 'counter packets 0 bytes 0 comment "policy"')]


def test_chains_that_a_rule_needs_are_its_own() -> None:
    """The jump and everything in the helper chain stand for the rule."""
    done = filtered("-A INPUT -p tcp -m multiport --ports 1,2 -j DROP")
    chains = {chain for chain, _ in texts(done, 3)}
    assert "INPUT" in chains
    assert any(chain.startswith("INPUT-rule") for chain in chains)


def test_a_lost_rule_has_no_counterpart_but_a_loss() -> None:
    """And the other way round for a rule that is exact."""
    done = filtered("-A INPUT -m no_such_match -j DROP", "-A INPUT -j DROP")
    lost, exact = done.counterparts()[3], done.counterparts()[4]
    assert (lost.rules, [loss.fidelity for loss in lost.losses]) == ((), [Fidelity.LOST])
    assert (len(exact.rules), exact.losses) == (1, ())


def test_what_is_said_once_is_known_of_each_rule() -> None:
    """An admission about all rules of a kind is one loss of the translation, and one of each such rule."""
    done = filtered(*["-A INPUT -p tcp -m tcp --dport 22 -j DROP"] * 3)
    (loss,) = done.losses
    assert loss.line == 3
    admitted = [done.counterparts()[line].losses for line in (3, 4, 5)]
    assert [len(each) for each in admitted] == [1, 1, 1]
    assert [each[0].line for each in admitted] == [3, 4, 5]
    assert {each[0].reason for each in admitted} == {loss.reason}


def test_a_rule_that_matches_nothing_has_the_remark() -> None:
    """There is no rule of nft for it, and nothing is lost."""
    done = filtered("-A INPUT ! -s 0.0.0.0/0 -j DROP")
    assert texts(done, 3) == [("INPUT", "# line 3: no packet matches this rule")]
    assert done.counterparts()[3].losses == ()


def test_a_merged_run_stands_for_all_its_rules() -> None:
    """With `optimize` each of them has the lookup."""
    done = filtered(*[f"-A INPUT -s 10.0.0.{n}/32 -j DROP" for n in range(20)], optimize=True)
    assert [texts(done, line) for line in range(3, 23)] == [[("INPUT", "ip saddr @INPUT-ip-saddr drop")]] * 20


@pytest.mark.parametrize("optimize", [False, True])
def test_every_rule_of_the_script_stands_for_something(optimize: bool) -> None:
    """No rule of nft is in no counterpart; what no line asked for stands under 0."""
    rules = [f"-A INPUT -s 10.0.0.{n}/32 -p tcp -m multiport --ports {n},99 -j DROP" for n in range(20)]
    text = "\n".join(
        [
            "*filter",
            ":INPUT ACCEPT [0:0]",
            *rules,
            "COMMIT",
            "*nat",
            ":OUTPUT ACCEPT [0:0]",
            "-A OUTPUT -p tcp -m conntrack --ctstate NEW -m no_such_match -j ACCEPT",
            "COMMIT",
            "",
        ]
    )
    done = translate(text, optimize=optimize)
    known = {rule.text for each in done.counterparts().values() for rule in each.rules}
    chains = re.findall(r"^\tchain \S+ \{\n(.*?)^\t\}", done.script, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for chain in chains for line in chain.splitlines()]
    assert {line for line in lines if not line.startswith(("#", "type "))} == known
    assert [rule.text[:8] for rule in done.counterparts()[0].rules] == ["ct state"]
