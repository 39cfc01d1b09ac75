"""The plan: what has to be done for each state, from a table before and after a change. No kernel is asked."""

from __future__ import annotations

import pytest

from nfkeep import Family, Fidelity, Rule
from nfkeep.conntrack import Condition, Selector
from nfkeep.keep.observe import Found, Observation
from nfkeep.keep.paths import MOST_PATHS, Reach, can_meet
from nfkeep.keep.plan import limited, make_plan
from nfkeep.model import Hook
from nfkeep.xtables.entry import decode

BASE = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
LIMIT = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP"
SAVED = str(Rule.parse(LIMIT))  # says the mask and the key too: in IPv4 the bytes of this one are others


def table(*lines: str, name: str = "filter", family: Family = Family.IPV4) -> Observation:
    """An observation of a table with these rules, each as `CHAIN rule`."""
    positions: dict[str, int] = {}
    found = []
    for line in lines:
        chain, text = line.split(" ", 1)
        positions[chain] = positions.get(chain, 0) + 1
        rule = Rule.parse(text, family)
        found.append(Found(chain, positions[chain], rule, decode(rule)))
    return Observation(name, family, (*BASE, *(c for c in positions if c not in BASE)), tuple(found))


def selectors(observation: Observation, found: Found) -> tuple[Selector, ...]:
    return Reach(observation).selectors(found)


def fates(before: Observation, after: Observation, *others: Observation) -> list[tuple[str, str]]:
    plan = make_plan(before, after, others)
    counted = [("connlimit", "to be counted") for _ in plan.limits]
    return [*counted, *((o.kind, o.fidelity.value) for o in plan.outcomes)]


CONTINUED = {
    "the same rule": ([f"INPUT {LIMIT}"], [f"INPUT {LIMIT}"], 1),
    "the same rule, back from iptables-save": ([f"INPUT {LIMIT}"], [f"INPUT {SAVED}"], 1),
    "the same rule in another place": ([f"INPUT {LIMIT}"], ["INPUT -j ACCEPT", f"INPUT {LIMIT}"], 1),
    "the same rule in another chain": ([f"INPUT {LIMIT}"], ["INPUT -j x", f"x {LIMIT}"], 1),
    "another limit": ([f"INPUT {LIMIT}"], [f"INPUT {LIMIT.replace('above 10', 'above 12')}"], 1),
    "another limit in a saved rule": ([f"INPUT {LIMIT}"], [f"INPUT {SAVED.replace('above 10', 'above 12')}"], 1),
    "another verdict": ([f"INPUT {LIMIT}"], [f"INPUT {LIMIT.replace('DROP', 'REJECT')}"], 1),
    "another key": ([f"INPUT {LIMIT}"], [f"INPUT {LIMIT.replace('above 10', 'above 10 --connlimit-mask 24')}"], 0),
    "another port": ([f"INPUT {LIMIT}"], [f"INPUT {LIMIT.replace('873', '874')}"], 0),
    "twice the same": ([f"INPUT {LIMIT}"] * 2, [f"INPUT {LIMIT}"] * 2, 2),
    "one of two left": ([f"INPUT {LIMIT}"] * 2, [f"INPUT {LIMIT}"], 1),
    "a new one": ([], [f"INPUT {LIMIT}"], 0),
    "one that nothing led to before": ([f"x {LIMIT}"], ["INPUT -j x", f"x {LIMIT}"], 0),
    "one gone": ([f"INPUT {LIMIT}"], [], 0),
}


@pytest.mark.parametrize(("before", "after", "count"), CONTINUED.values(), ids=CONTINUED)
def test_which_rules_go_on(before: list[str], after: list[str], count: int) -> None:
    """A connlimit rule goes on if it asks the same of packets and counts by the same key."""
    assert fates(table(*before), table(*after)) == [("connlimit", "to be counted")] * count


HAZARDS = {
    "a list written on the way": ("INPUT -p tcp -m recent --name x --set", "in danger"),
    "a list only read": ("INPUT -p tcp -m recent --name x --rcheck", "to be counted"),
    "a list for another port": ("INPUT -p tcp --dport 22 -m recent --name x --set", "to be counted"),
    "a list for another protocol": ("INPUT -p udp -m recent --name x --set", "to be counted"),
    "a list for what is established": ("INPUT -m state --state ESTABLISHED -m recent --name x --set", "to be counted"),
    "a list for what is no SYN": ("INPUT -p tcp ! --syn -m recent --name x --set", "to be counted"),
    "a list in another hook": ("FORWARD -p tcp -m recent --name x --set", "to be counted"),
    "packets handed to a program": ("INPUT -p tcp -j NFQUEUE", "in danger"),
    "packets copied elsewhere": ("INPUT -p tcp -j TEE --gateway 192.0.2.1", "in danger"),
    "packets that light a lamp": ("INPUT -p tcp -j IDLETIMER --timeout 9 --label x", "in danger"),
    "packets that are written of": ("INPUT -p tcp -j LOG", "in danger"),
    "a mark on the connection, which is put back": ("INPUT -p tcp -j CONNMARK --set-mark 1", "to be counted"),
    "a mark on the packet alone": ("INPUT -p tcp -j MARK --set-mark 1", "to be counted"),
}  # fmt: skip


@pytest.mark.parametrize(("hazard", "fate"), HAZARDS.values(), ids=HAZARDS)
def test_hazards_on_the_way(hazard: str, fate: str) -> None:
    """Where opening packets may disturb something for good, the count is in danger; the hazard is named."""
    seen = table(hazard, f"INPUT {LIMIT}")
    (limit,) = make_plan(seen, seen).limits
    assert ("in danger" if limit.hazard else "to be counted") == fate
    assert ("filter INPUT rule 1" in limit.hazard) == (fate == "in danger")


def test_hazards_in_an_earlier_table() -> None:
    """Tables that the packets pass before are looked at, those behind are not."""
    seen = table(f"INPUT {LIMIT}")
    assert make_plan(seen, seen, [table("PREROUTING -j NFLOG", name="raw")]).feared != ()
    assert make_plan(seen, seen, [table("OUTPUT -j NFLOG", name="raw")]).feared == ()
    assert make_plan(seen, seen, [table("INPUT -j NFLOG", name="security")]).feared == ()


def test_where_the_destination_may_be_another() -> None:
    """Before destination NAT another port or address says nothing, another source or protocol does."""
    seen = table(f"FORWARD -s 10.0.0.0/8 {LIMIT}")
    for text, feared in (("-p tcp --dport 22", 1), ("-d 192.0.2.1", 1), ("-p udp", 0), ("-s 192.0.2.0/24", 0)):
        early = table(f"PREROUTING {text} -j NFLOG", name="mangle")
        assert len(make_plan(seen, seen, [early]).feared) == feared


def test_large_tables_are_planned_in_one_go() -> None:
    """Thousands of stateful rules, and chains that call each other in all ways, come to an end."""
    lines = [f"INPUT -s 10.0.{n >> 8}.{n & 255} -m limit --limit 1/s -j LOG" for n in range(3000)]
    chains = [f"{a} -j {b}" for a in "abcdefghij" for b in "abcdefghij" if a != b]
    seen = table(*lines, *chains, "INPUT -j a", "FORWARD -j b", f"j {LIMIT}")
    plan = make_plan(seen, seen)
    assert len(plan.limits) == 1
    assert {selector.hook for selector in plan.limits[0].selectors} == {Hook.INPUT, Hook.FORWARD}
    assert sum(outcome.kind == "limit" for outcome in plan.outcomes) == 3000


def test_what_cannot_be_reached_is_lost() -> None:
    """A limit that no opening packet meets, or in the nat table, cannot be counted again."""
    for seen in (
        table("INPUT -m conntrack --ctstate ESTABLISHED -m connlimit --connlimit-above 3 -j DROP"),
        table(f"x {LIMIT}"),
        table(f"PREROUTING {LIMIT}".replace("DROP", "ACCEPT"), name="nat"),
    ):
        assert fates(seen, seen) == [("connlimit", "lost")]


def test_states_of_the_rule_that_a_replace_resets() -> None:
    """limit and nth are approximated, what is left of a quota goes on, a random statistic is nothing."""
    seen = table(
        "INPUT -m limit --limit 1/min",
        "INPUT -m quota --quota 9",
        "INPUT -m statistic --mode nth --every 2 --packet 0",
        "INPUT -m statistic --mode random --probability 0.5",
    )
    assert fates(seen, seen) == [("limit", "approximated"), ("statistic", "approximated")]
    assert [(old.position, new.position) for old, new in make_plan(seen, seen).quotas] == [(2, 2)]
    assert fates(seen, table()) == []


def test_named_states() -> None:
    """A list survives while a rule names it, here or elsewhere; after its last rule it is held, or lost."""
    seen = table("INPUT -m recent --name x --rcheck")
    assert fates(seen, seen) == [("recent", "survives")]
    assert fates(seen, table(), table("INPUT -m recent --name x --rcheck", name="mangle")) == [("recent", "survives")]
    assert fates(seen, table()) == [("recent", "held")]
    assert [key for key, _ in make_plan(seen, table()).holds] == [("recent", "x")]
    (outcome,) = make_plan(seen, table(), hold=False).outcomes
    assert outcome.fidelity is Fidelity.LOST
    assert make_plan(table(), seen).returned == {("recent", "x")}


def test_a_larger_hitcount_empties_a_list() -> None:
    """It is a loss if any new rule wants more stamps per address than every old one."""
    few, many = (table(f"INPUT -m recent --name x --rcheck --hitcount {n}") for n in (4, 5))
    assert fates(few, few) == [("recent", "survives")]
    assert fates(few, many) == [("recent", "lost")]
    assert fates(many, few) == [("recent", "survives")]
    assert fates(few, table("INPUT -m recent --name x --rcheck")) == [("recent", "lost")]  # none is 32


def test_ways_through_user_chains() -> None:
    """Each way of jumps to a rule becomes a selector with the conditions of all its rules."""
    seen = table(
        "INPUT -s 10.0.0.0/8 -j a",
        "FORWARD -i eth0 -g a",
        "a -p tcp -j b",
        "b -p tcp -m multiport --dports 1,5:9 -j c",
        f"c {LIMIT}",
    )
    ways = {way.hook: way.conditions for way in selectors(seen, seen.found[-1])}
    assert set(ways) == {Hook.INPUT, Hook.FORWARD}
    assert Condition(source=bytes([10, 0, 0, 0]), source_mask=bytes([255, 0, 0, 0])) in ways[Hook.INPUT]
    assert Condition(destination_ports=((1, 1), (5, 9))) in ways[Hook.FORWARD]
    assert Condition(destination_ports=((873, 873),)) in ways[Hook.INPUT]


def test_loops_and_many_ways_end() -> None:
    """Chains that call each other end the walk, and hundreds of ways become one per hook."""
    loop = table("INPUT -j a", "a -j b", "b -j a", f"b {LIMIT}")
    assert len(selectors(loop, loop.found[-1])) == 1
    fan = table(*(f"INPUT -s 10.0.0.{n} -j a" for n in range(MOST_PATHS + 1)), f"a {LIMIT}")
    (only,) = selectors(fan, fan.found[-1])
    assert all(not condition.source for condition in only.conditions)


DIRECTIONS = {
    "SYN": ("-p tcp --syn", False),
    "NEW": ("-m conntrack --ctstate NEW", False),
    "NEW, the old way": ("-m state --state NEW", False),
    "not what is established": ("-m conntrack ! --ctstate ESTABLISHED,RELATED", False),
    "anything": ("-p tcp", True),
    "NEW or RELATED": ("-m conntrack --ctstate NEW,RELATED", True),
    "some flags of both": ("-p tcp --tcp-flags FIN NONE", True),
}


@pytest.mark.parametrize(("text", "replies"), DIRECTIONS.values(), ids=DIRECTIONS)
def test_which_directions_count(text: str, replies: bool) -> None:
    """Replies can count only where a rule asks neither for a SYN nor for NEW."""
    seen = table(f"INPUT {text} -m connlimit --connlimit-above 3 -j DROP")
    assert [way.replies for way in selectors(seen, seen.found[0])] == [replies]


def test_the_gate_covers_every_limit_but_those_in_nat() -> None:
    """What is held off are the openings of all limited flows."""
    assert len(limited(table(f"INPUT {LIMIT}", f"FORWARD {LIMIT}"))) == 2
    assert limited(table(f"PREROUTING {LIMIT}", name="nat")) == ()
    assert limited(table("INPUT -m limit --limit 1/s")) == ()


MEETINGS = {
    "other ports": ("-p tcp --dport 1:5", "-p tcp --dport 6", False),
    "common ports": ("-p tcp --dport 1:5", "-p tcp --dport 5:9", True),
    "inverted ports": ("-p tcp ! --dport 1", "-p tcp --dport 2", True),
    "other networks": ("-s 10.0.0.0/8", "-s 11.0.0.0/8", False),
    "one in the other": ("-s 10.0.0.0/8", "-s 10.1.0.0/16", True),
    "other protocols": ("-p tcp", "-p udp", False),
    "a protocol and its opposite": ("-p tcp", "! -p tcp", False),
    "two opposites": ("! -p tcp", "! -p udp", True),
    "anything": ("-p tcp", "-m comment --comment x", True),
}


@pytest.mark.parametrize(("one", "other", "meet"), MEETINGS.values(), ids=MEETINGS)
def test_what_excludes_each_other(one: str, other: str, meet: bool) -> None:
    """Only simple conditions that contradict each other keep two rules apart."""
    seen = table(f"INPUT {one}", f"INPUT {other}")
    (left,), (right,) = (selectors(seen, found) for found in seen.found)
    assert can_meet(left, right) is can_meet(right, left) is meet
