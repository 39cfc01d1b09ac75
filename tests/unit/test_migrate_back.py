"""The way back of a move, where it is arithmetic: hits in lists of recent, keys of sets, rules by their words."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Counters, Family
from nfkeep.migrate.ipset_keys import element_text, key_bytes, keyed
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.live import record, ties
from nfkeep.migrate.live.parking import PARKED, parked_text
from nfkeep.migrate.live.returned_lists import commands
from nfkeep.migrate.live.ties import FamilyTies, MadeTable, Tie, TiedSet, Ties, rule_keys
from nfkeep.migrate.recent import Age, RecentList
from nfkeep.migrate.source import read_source

HERE, THERE = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")

ages = st.builds(Age, st.integers(10, 1000), st.integers(1, 8)) | st.builds(Age, st.just(0), st.integers(2, 8))
hits = st.lists(st.floats(0, 999), min_size=1, max_size=10, unique=True).map(sorted)


def sets_of(*those: Age, presence: bool = False) -> RecentList:
    return RecentList("x", "ip saddr", tuple(sorted(those)), presence)


def placed(sets: RecentList, seen: list[float]) -> dict[str, float]:
    """The sets that an address is in, with what is left there."""
    return {name: left for name, _, left in sets.places(seen) if name in sets.names()}


@given(st.lists(ages, min_size=1, max_size=3, unique=True), st.booleans(), hits)
def test_what_sets_tell_is_what_went_into_them(those: list[Age], presence: bool, seen: list[float]) -> None:
    """The hits that the widest question needs, and never one too many."""
    sets = sets_of(*those, presence=presence)
    told, least = sets.seen(placed(sets, seen))
    young = [[age for age in seen if age < each.seconds][: each.hits] for each in those if each.seconds]
    assert list(told) == pytest.approx(max(young, key=len, default=[]))
    counts = [min(len(seen), each.hits) for each in those if not each.seconds]
    assert least == max([*map(len, young), *counts, int(presence)])


TOLD = {
    "somebody new": (Age(60, 1), {THERE: [5.0]}, {}, ["+192.0.2.2"]),
    "all hits of somebody new": (Age(60, 3), {THERE: [5.0, 50.0]}, {}, ["+192.0.2.2"] * 2),
    "nobody has come": (Age(60, 1), {HERE: [50.0]}, {HERE: (50.0,)}, []),
    "seen again": (Age(60, 1), {HERE: [5.0]}, {HERE: (50.0,)}, ["+192.0.2.1"]),
    "seen twice again": (Age(60, 4), {HERE: [5.0, 6.0, 50.0]}, {HERE: (50.0,)}, ["+192.0.2.1"] * 2),
    "a hit more, of no age": (Age(0, 4), {HERE: [5.0, 50.0]}, {HERE: (50.0,)}, ["+192.0.2.1"]),
    "in the order of the hits": (Age(60, 1), {HERE: [3.0], THERE: [5.0]}, {}, ["+192.0.2.2", "+192.0.2.1"]),
    "taken off": (Age(0, 1), {}, {HERE: (50.0,)}, ["-192.0.2.1"]),
    "came to the list meanwhile": (Age(0, 1), {}, {HERE: (5.0,)}, []),
}


@pytest.mark.parametrize(("age", "there", "listed", "expected"), TOLD.values(), ids=TOLD)
def test_what_a_list_is_told(
    age: Age, there: dict[ipaddress.IPv4Address, list[float]],
    listed: dict[ipaddress.IPv4Address, tuple[float, ...]], expected: list[str],
) -> None:  # fmt: skip
    """nft has had the rules for ten seconds."""
    sets = sets_of(*([age] if age != Age(0, 1) else []), presence=age == Age(0, 1))
    left = {address: placed(sets, seen) for address, seen in there.items()}
    told = commands(sets, left, listed, 10.0, removals=True)
    assert [f"{sign}{address}" for sign, address in told] == expected


def test_whom_somebody_has_taken_off_since() -> None:
    """They come back only with the hits that nft has seen since."""
    sets = sets_of(Age(60, 2), presence=True)
    left = {HERE: placed(sets, [30.0, 40.0]), THERE: placed(sets, [5.0, 30.0])}
    told = commands(sets, left, {}, 10.0, removals=True, taken_off={HERE, THERE})
    assert told == [("+", THERE)]


def test_nobody_is_taken_off_by_a_table_that_was_loaded_anew() -> None:
    """Its sets are empty because of that."""
    assert commands(sets_of(presence=True), {}, {HERE: (50.0,)}, 10.0, removals=False) == []


SETS = """\
create host hash:ip family inet timeout 60
add host 192.0.2.1 timeout 20
create masked hash:ip netmask 24
add masked 192.0.2.0
create flow hash:ip,port family inet6
add flow fe80::1,tcp:80
add flow fe80::1,icmpv6:128/0
add flow fe80::1,47:0
create both hash:ip,port,ip family inet6
add both fe80::1,udplite:53,fe80::2
create port bitmap:port range 0-1000
add port 80
create marked hash:ip,mark
add marked 192.0.2.1,0x10
create card hash:mac
add card 00:11:22:aa:bb:cc
create pair hash:ip,mac
add pair 192.0.2.1,00:11:22:aa:bb:cc
"""


def test_keys_of_sets_and_back() -> None:
    """Every element is what it was, and its key as long as nft's; a range is all that is in it."""
    lines = [line.split() for line in SETS.splitlines()]
    for each in read_ipsets(SETS).values():
        keys = keyed(each)
        added = [words[2] for words in lines if words[:2] == ["add", each.name]]
        assert [element_text(each, key) for key in keys] == added
        assert {len(key) for key in keys} == {key_bytes(each)}
    (ranged,) = read_ipsets("create x hash:ip\nadd x 192.0.2.0/30\n").values()
    assert [element_text(ranged, key) for key in keyed(ranged)] == [f"192.0.2.{number}" for number in range(4)]
    assert [each.timeout for each in keyed(read_ipsets(SETS)["host"]).values()] == [20]
    assert keyed(read_ipsets(SETS)["flow"]).keys() >= {ipaddress.ip_address("fe80::1").packed + b"\6\0\0\0\0\x50\0\0"}


def test_rules_by_their_words() -> None:
    """Equal ones are told apart by their order; the figure of a quota is none of them."""
    rules = [("-j", "DROP"), ("-m", "quota", "--quota", "5"), ("-j", "DROP"), ("-m", "quota", "--quota", "7")]
    quota = ("-m", "quota", "--quota", "")
    assert rule_keys("INPUT", rules, policy=True) == [
        (("INPUT", ("-j", "DROP"), 0), 2),
        (("INPUT", quota, 0), 2),
        (("INPUT", ("-j", "DROP"), 1), 2),
        (("INPUT", quota, 1), 2),
        (("INPUT", (), 0), 1),
    ]


def test_tables_out_of_action() -> None:
    """The rule that accepts everything comes first in each base chain, also in a table without rules."""
    text = "*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [3:4]\n:x - [0:0]\n[1:2] -A INPUT -j x\nCOMMIT\n"
    nat, filtering = read_source(parked_text(text), Family.IPV4).tables
    assert {chain.name: len(chain.rules) for chain in nat.chains} == dict.fromkeys(
        ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), 1
    )
    chains = {chain.name: [" ".join(rule.words[-2:]) for rule in chain.rules] for chain in filtering.chains}
    assert chains == {"INPUT": ["-j ACCEPT", "-j x"], "x": [], "FORWARD": ["-j ACCEPT"], "OUTPUT": ["-j ACCEPT"]}
    assert parked_text(text).count(PARKED) == 4 + 3


def test_ties_on_the_disk(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read as they were written; what is none is none."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path))
    tie = Tie("filter", ("INPUT", ("-j", 'a "b"'), 1), 2, Counters(3, 4), (("filter", "INPUT", 5),), (("filter", "q"),))
    made = MadeTable(7, {"INPUT": ((8, "digest"),)}, (("set", "x_61"),))
    one = FamilyTies(Family.IPV6, {"filter": made}, (tie,), (TiedSet("a", "filter", "x_61", True),), {"x": ("::1",)})
    written = Ties("boot", 1.5, 9, (one,))
    ties.save(written)
    assert ties.load() == written
    record.keep(ties.FILE, '{"boot": 1}')
    assert ties.load() is None
