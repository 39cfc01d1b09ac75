"""The walker: hazards by name, doubts and what settles them, ways that meet again, and images that no kernel has."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import image, raised
from probes import DST_NAT, ESTABLISHED, NEW, TCP, UDP, Probe

from nfkeep.model import Counters, Family, Hook
from nfkeep.xtables.image import Image
from nfkeep.xtables.walk import Answer, Outcome, Walk, Walked

SYN = Probe(Family.IPV4, TCP, Hook.INPUT, "192.0.2.1", "192.0.2.2", in_name="eth0")
LIMIT = "-p tcp --syn -m connlimit --connlimit-above 3"


def walker(*tables: Image, watched: str = "filter") -> Walk:
    walk = Walk(tables[0].family)
    priorities = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
    for table in tables:
        walk.add(table, priorities[table.name], watched=table.name == watched)
    return walk


def walk_input(*rules: str, probe: Probe = SYN, table: str = "filter", **chains: list[str]) -> Walked:
    """The way through one chain INPUT, of a table which is watched if it is `filter`."""
    with walker(image({"INPUT": list(rules), **chains}, name=table, family=probe.family)) as walk:
        return walk.walk(probe.pack())


HARMFUL = {
    "recent --set": "-m recent --name x --set",
    "recent --update": "-m recent --name x --update --seconds 5",
    "recent --remove": "-m recent --name x --remove",
    "hashlimit": "-m hashlimit --hashlimit-upto 5/s --hashlimit-name x",
    "limit": "-m limit --limit 5/s",
    "quota": "-m quota --quota 1000",
    "nfacct": "-m nfacct --nfacct-name x",
    "LOG": "-j LOG",
    "NFLOG": "-j NFLOG",
    "AUDIT": "-j AUDIT --type drop",
    "TRACE": "-j TRACE",
    "TEE": "-j TEE --gateway 192.0.2.9",
    "NFQUEUE": "-j NFQUEUE",
    "QUEUE": "-j QUEUE",
    "RATEEST": "-j RATEEST --rateest-name x --rateest-interval 250ms --rateest-ewmalog 0.5s",
    "IDLETIMER": "-j IDLETIMER --timeout 5 --label x",
    "LED": "-j LED --led-trigger-id x",
    "SYNPROXY": "-p tcp -j SYNPROXY",
}


@pytest.mark.parametrize("rule", HARMFUL.values(), ids=HARMFUL)
def test_what_leaves_traces_is_a_hazard(rule: str) -> None:
    """By the name of the extension, at its entry, and surely, as nothing before it is in doubt."""
    (hazard,) = walk_input("-p udp -j DROP", rule).hazards
    name = rule.split("-m " if "-j" not in rule else "-j ")[1].split()[0]
    assert (hazard.table, hazard.entry, hazard.extension) == ("filter", 1, name)
    assert hazard.certain
    assert hazard.probes == (0,)


HARMLESS = {
    "connlimit": f"{LIMIT} -j REJECT --reject-with tcp-reset",
    "recent --rcheck": "-m recent --name x --rcheck -j DROP",
    "statistic random": "-m statistic --mode random --probability 0.5 -j DROP",
    "statistic nth in the watched table": "-m statistic --mode nth --every 2 --packet 0 -j DROP",
    "CONNMARK": "-j CONNMARK --set-mark 1",
    "pkttype": "-m pkttype --pkt-type host -j DROP",
}


@pytest.mark.parametrize("rule", HARMLESS.values(), ids=HARMLESS)
def test_what_leaves_none_is_not(rule: str) -> None:
    """Counting matches that are counted anyway, and matches that only look."""
    assert walk_input(rule).hazards == ()


def test_what_restores_itself_with_the_table_harms_in_the_others() -> None:
    """The table that was replaced begins anew with `statistic nth`; another table's goes on."""
    assert [
        h.extension for h in walk_input(HARMLESS["statistic nth in the watched table"], table="mangle").hazards
    ] == ["statistic"]


def test_a_match_behind_one_that_fails_is_not_asked() -> None:
    """As in the kernel, which goes from left to right and ends with the first that does not hold."""
    assert walk_input("-p udp -m limit --limit 5/s").hazards == ()
    assert walk_input("-m conntrack --ctstate ESTABLISHED -m recent --name x --set").hazards == ()
    assert len(walk_input("-m recent --name x --set -m conntrack --ctstate ESTABLISHED").hazards) == 1


def test_a_hazard_behind_a_doubt_is_one_that_may_be() -> None:
    """On either side of it; and a packet that may be dropped before may not meet it."""
    for rules in (
        [f"{LIMIT} -j REJECT", "-j LOG"],
        [f"{LIMIT} -j u", "-j DROP"],
        ["-m recent --name x --rcheck -m limit --limit 1/s"],
    ):
        (hazard,) = walk_input(*rules, u=["-j LOG"]).hazards
        assert not hazard.certain


@pytest.mark.parametrize(("name", "lost"), [("GADGET", True), ("TPROXY", True), ("SET", False), ("ULOG", False)])
def test_a_target_that_nobody_knows_ends_the_walk(name: str, lost: bool) -> None:
    """The packet is lost there, and the hazard has its name, as that of a target behind which it goes on."""
    table = image({"INPUT": ["-j LOG", "-j DROP"]})
    strange = attrs.evolve(table, entries=table.entries.replace(b"LOG".ljust(9, b"\0"), name.encode().ljust(9, b"\0")))
    with walker(strange) as walk:
        walked = walk.walk(SYN.pack())
    assert (walked.outcomes[0], bool(walked.lost[0])) == (Outcome.UNCERTAIN if lost else Outcome.DROPPED_BEFORE, lost)
    assert [hazard.extension for hazard in walked.hazards] == [name]


def test_a_match_in_another_revision_is_a_doubt() -> None:
    """Its data may mean anything."""
    table = image({"INPUT": ["-m mark --mark 1 -j DROP"]})
    at = table.entries.index(b"mark\0") + 29  # the revision
    newer = attrs.evolve(table, entries=table.entries[:at] + b"\x09" + table.entries[at + 1 :])
    with walker(newer) as walk:
        assert walk.walk(SYN.pack()).certain == b"\0"


def test_a_chain_met_twice_counts_twice_and_harms_once() -> None:
    """Each jump into it is a way of its own, on which all its rules count."""
    table = image({"INPUT": ["-j u", "-j u"], "u": ["-j LOG"]})
    with walker(table) as walk:
        walked = walk.walk(SYN.pack(), [3])
        counted = walk.counted("filter")
    assert len(walked.hazards) == 1
    assert list(counted.packets) == [3, 3, 3, 0, 6, 6, 0]
    assert list(counted.bytes) == [120, 120, 120, 0, 240, 240, 0]


def test_ways_that_meet_again_are_one() -> None:
    """Forty doubts that leave the packet as it is are forty, not a million million ways."""
    assert walk_input(*["-m recent --name x --rcheck"] * 40, "-j ACCEPT").outcomes == bytes([Outcome.REACHED_SINK])


def test_too_many_ways_are_given_up() -> None:
    """Where each doubt leaves a packet of its own; and that is said."""
    marks = [f"-m recent --name x --rcheck -j MARK --or-mark {1 << bit}" for bit in range(20)]
    walked = walk_input(*marks)
    assert (walked.outcomes, walked.lost) == (bytes([Outcome.UNCERTAIN]), b"\1")
    assert [hazard.extension for hazard in walked.hazards] == ["too many ways"]


OUTCOMES = {
    "the policy": ([], Outcome.REACHED_SINK, True),
    "a DROP": (["-j DROP"], Outcome.DROPPED_BEFORE, True),
    "a REJECT": (["-j REJECT"], Outcome.DROPPED_BEFORE, True),
    "a limit before": ([f"{LIMIT} -j REJECT"], Outcome.UNCERTAIN, False),
    "a doubt without a difference": (["-m recent --name x --rcheck -j ACCEPT"], Outcome.REACHED_SINK, False),
    "a doubt before a DROP": (["-m recent --name x --rcheck -j DROP", "-j DROP"], Outcome.DROPPED_BEFORE, False),
}


@pytest.mark.parametrize(("rules", "outcome", "certain"), OUTCOMES.values(), ids=OUTCOMES)
def test_where_the_way_ends(rules: list[str], outcome: Outcome, certain: bool) -> None:
    """The end is known where all ways have the same, which are certain only if there is one."""
    walked = walk_input(*rules)
    assert (walked.outcomes[0], bool(walked.certain[0])) == (outcome, certain)


def test_no_packet_no_way() -> None:
    """A direction in which no packet is sent meets nothing."""
    walked = walk_input("-j LOG", probe=attrs.evolve(SYN, sunk_at=255))
    assert (walked.outcomes[0], walked.certain[0], walked.hazards) == (Outcome.NO_PACKET, 1, ())


def test_a_way_ends_behind_the_watched_table() -> None:
    """What comes later at the same hook is not met."""
    later, before = image({"INPUT": ["-j LOG"]}, "security"), image({"INPUT": []})
    with walker(later, before) as walk:
        assert walk.walk(SYN.pack()).hazards == ()
    with walker(before, later, watched="security") as walk:
        assert len(walk.walk(SYN.pack()).hazards) == 1


def test_a_reply_finds_the_mark_that_its_opening_left() -> None:
    """Both packets of a flow pass before its mark is put back."""
    tables = image({"INPUT": ["-m connmark --mark 7 -j DROP", "-j CONNMARK --set-mark 7"]})
    reply = attrs.evolve(SYN, is_reply=True, states=ESTABLISHED)
    with walker(tables) as walk:
        assert list(walk.walk(SYN.pack() + reply.pack()).outcomes) == [Outcome.REACHED_SINK, Outcome.DROPPED_BEFORE]
        assert list(walk.walk(reply.pack() + SYN.pack()).outcomes) == [Outcome.REACHED_SINK] * 2


DECIDED: dict[str, tuple[str, dict[str, Any], bool | None]] = {
    "an unknown interface": ("-i eth0", {"in_name": ""}, None),
    "any interface": ("", {"in_name": ""}, True),
    "a state that may be two": ("-m conntrack --ctstate NEW", {"states": NEW | 1 << 2}, None),
    "both of the two": ("-m conntrack --ctstate NEW,RELATED", {"states": NEW | 1 << 2}, True),
    "none of the two": ("-m state --state ESTABLISHED", {"states": NEW | 1 << 2}, False),
    "a status that is not known": ("-m conntrack --ctstatus ASSURED", {"status_known": 0}, None),
    "translated": ("-m conntrack --ctstate DNAT", {"status": DST_NAT}, True),
    "the address after the translation": ("-d 192.0.2.9", {"nat_destination": "192.0.2.9"}, True),
    "the socket of a packet from outside": ("-m owner --uid-owner 0", {}, False),
    "a type that is known": ("-m addrtype --dst-type LOCAL", {"types": (1, 2, 1, 2)}, True),
    "a type that is not": ("-m addrtype --dst-type LOCAL", {}, None),
    "a fragment": ("-f", {}, False),
    "another protocol's match": ("-p icmp -m icmp --icmp-type 8", {}, False),
    "an unknown match behind a false one": ("-m mac --mac-source 00:11:22:33:44:55 -p udp", {}, False),
}


@pytest.mark.parametrize(("rule", "changes", "expected"), DECIDED.values(), ids=DECIDED)
def test_yes_no_and_maybe(rule: str, changes: dict[str, Any], expected: bool | None) -> None:
    """A rule that drops tells what was decided; None is a doubt."""
    chain = "FORWARD" if "owner" in rule else "INPUT"
    probe = attrs.evolve(SYN, sunk_at=Hook[chain], **changes)
    with walker(image({chain: [f"{rule} -j DROP"]})) as walk:
        walked = walk.walk(probe.pack())
    found = None if not walked.certain[0] else walked.outcomes[0] == Outcome.DROPPED_BEFORE
    assert found is expected


PASSED = image({"INPUT": [f"{LIMIT} -j REJECT", "-p tcp -j ACCEPT"]})
RISES: dict[str, tuple[dict[int, Counters], bool, list[int] | None]] = {
    "none matched": ({}, False, [0, 5, 0, 0]),
    "all matched": ({0: Counters(5, 200)}, True, [5, 0, 0, 0]),
    "all, or as many others": ({0: Counters(5, 200)}, False, None),
    "some matched": ({0: Counters(2, 80)}, True, None),
}


@pytest.mark.parametrize(("rises", "ours", "expected"), RISES.values(), ids=RISES)
def test_the_counters_settle_what_was_in_doubt(
    rises: dict[int, Counters], ours: bool, expected: list[int] | None
) -> None:
    """A limit that has not counted has matched nobody; what then is certain is counted."""
    with walker(PASSED) as walk:
        after = raised(PASSED, rises)
        walked = walk.settle([after], SYN.pack() * 5, [1] * 5, ours=["filter"] if ours else [])
        assert walked.certain == (b"\0" if expected is None else b"\1") * 5
        if expected is not None:
            assert list(walk.counted("filter").packets) == expected


@pytest.mark.parametrize("target", ["DROP", "REJECT", "ACCEPT"])
def test_what_arrives_was_not_dropped(target: str) -> None:
    """So a rule that would have dropped it did not match, whoever else has raised its counter."""
    table = image({"INPUT": [f"-m recent --rcheck --name x -j {target}", "-p tcp -j ACCEPT"]})
    with walker(table) as walk:
        after = raised(table, {0: Counters(7, 200)})
        walked = walk.settle([after], SYN.pack() * 5, [1] * 5, all_arrived=True)
        assert walked.certain == (b"\0" if target == "ACCEPT" else b"\1") * 5
        assert list(walk.counted("filter").packets)[:2] == [0, 0 if target == "ACCEPT" else 5]


def test_the_answer_may_be_told() -> None:
    """By entry; it holds for the doubts only."""
    with walker(PASSED) as walk:
        walk.tell("filter", [Answer.YES, Answer.NO, Answer.NOT_TOLD, Answer.NOT_TOLD])
        assert list(walk.walk(SYN.pack()).outcomes) == [Outcome.DROPPED_BEFORE]
        with pytest.raises(ValueError, match="one answer for each"):
            walk.tell("filter", [Answer.NO])


def test_places_are_chains_and_positions() -> None:
    """Heads of chains have none; policies come behind the rules."""
    table = image({"INPUT": ["-j DROP"], "OUTPUT": [], "u": ["-j RETURN", "-j DROP"]})
    assert table.places() == [
        ("INPUT", 1), ("INPUT", 2), ("OUTPUT", 1), None, ("u", 1), ("u", 2), ("u", 3), None,
    ]  # fmt: skip


def test_probes_that_cannot_be_are_refused() -> None:
    """Cut off, of the other family, or on a way that there is none of."""
    nowhere = attrs.evolve(SYN, from_here=True, sunk_at=Hook.FORWARD)
    with walker(image({"INPUT": []})) as walk:
        for bad in (
            SYN.pack()[:-1],
            attrs.evolve(SYN, sunk_at=7).pack(),
            nowhere.pack(),
        ):
            with pytest.raises(ValueError, match="probe"):
                walk.walk(bad)
        with pytest.raises(ValueError, match="nat"):
            walk.add(image({"INPUT": []}, "nat"), -100)


def test_a_loop_is_refused() -> None:
    """The kernel has none; a walk of one would not end."""
    with pytest.raises(ValueError, match=r"loop|symbolic"):
        walker(image({"INPUT": ["-j u"], "u": ["-j v"], "v": ["-p tcp -j u"]}))


HOSTILE = {
    family: image(
        {
            "INPUT": [
                f"{LIMIT} -j REJECT",
                "-p tcp -m multiport --dports 1,2,5:9 -j u",
                "-j LOG",
                "-m mark --mark 1 -g u",
            ],
            "OUTPUT": ["-j v"],
            "u": ["-m conntrack --ctstate NEW -j v", "-p udp -m udp --dport 5 -j RETURN"],
            "v": ["-j CONNMARK --save-mark", "-m iprange --src-range ::1-::5" if family is Family.IPV6 else "-p udp"],
        },
        family=family,
    )
    for family in Family
}


@settings(max_examples=600, deadline=None)
@given(
    family=st.sampled_from(list(Family)),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.sampled_from([0, 1, 8, 40, 127, 128, 255])), max_size=8),
    cut=st.integers(0, 300) | st.just(0),
    shift=st.sampled_from([0, 0, 0, 1, 8, 64, 2**31]),
    probe=st.sampled_from([SYN, attrs.evolve(SYN, protocol=UDP)]),
)
def test_a_broken_image_is_refused_or_walked(
    family: Family, changes: list[tuple[int, int]], cut: int, shift: int, probe: Probe
) -> None:
    """Whatever its bytes are, nothing but a ValueError comes of it."""
    whole = HOSTILE[family]
    raw = bytearray(whole.entries)
    for at, byte in changes:
        raw[at % len(raw)] = byte
    starts = tuple(min(start + shift, 2**32 - 1) for start in whole.hook_entries)
    broken = attrs.evolve(whole, entries=bytes(raw[: len(raw) - cut]), hook_entries=starts)
    if family is Family.IPV6:
        probe = attrs.evolve(probe, family=family, source="::1", destination="::2")
    with Walk(family) as walk:
        try:
            walk.add(broken, 0, watched=True)
        except ValueError:
            return
        walked = walk.walk(probe.pack() * 2, [1, 1])
        assert len(walked.outcomes) == 2
