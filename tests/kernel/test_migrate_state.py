"""Rules that keep state, by iptables and by their translation: the same packets at the same time, the same verdicts."""

from __future__ import annotations

import random
import socket
import time

import pytest
from twins import Twins

from nfkeep import Family
from nfkeep.keep.report import Fidelity

ALL = "--mask 255.255.255.255 --rsource"
SOURCES = ("127.0.0.2", "127.0.1.3", "127.0.2.4")
TARGETS = ("127.0.1.9", "127.0.2.9")
SOURCES6 = ("fd00::1", "fd00::2", "fd00:0:0:1::1")
TICK = 0.3  # seconds; no multiple of it is near a whole second of those below


def recent(name: str, what: str, *, mask: str = ALL, opposite: bool = False) -> str:
    return f"-m recent {'! ' if opposite else ''}{what} --name {name} {mask}"


def nth(every: int, packet: int = 0) -> str:
    return f"-m statistic --mode nth --every {every} --packet {packet}"


LISTS = {
    "seen": [recent("a", "--rcheck --seconds 1") + " -j DROP", recent("a", "--set")],
    "hits": [recent("b", "--set"), recent("b", "--rcheck --seconds 2 --hitcount 3") + " -j DROP"],
    "hits renewed": [recent("c", "--set"), recent("c", "--update --seconds 1 --hitcount 2") + " -j DROP"],
    "renewed first": [recent("d", "--update --seconds 2 --hitcount 2") + " -j DROP", recent("d", "--set")],
    "two ages": [
        recent("e", "--rcheck --seconds 1") + " -j DROP",
        recent("e", "--update --seconds 2 --hitcount 4") + " -j DROP",
        recent("e", "--set"),
    ],
    "hits of any age": [recent("f", "--rcheck --hitcount 4") + " -j DROP", recent("f", "--set")],
    "removed": [
        recent("g", "--rcheck --seconds 2 --hitcount 3") + " -j DROP",
        recent("g", "--set"),
        f"{recent('g', '--rcheck --hitcount 5')} {recent('g', '--remove')}",
    ],
    "renewed by the opposite": [
        f"{nth(3)} {recent('h', '--set')}",
        recent("h", "--update --seconds 1 --hitcount 2", opposite=True) + " -j DROP",
    ],
    "not removed": [
        f"{nth(4)} {recent('i', '--set')}",
        recent("i", "--rcheck --seconds 1", opposite=True) + " -j DROP",
        f"{nth(5, 4)} {recent('i', '--remove', opposite=True)} -j DROP",
    ],
    "never, but set": [
        recent("j", "--set", opposite=True) + " -j DROP",
        recent("j", "--rcheck --seconds 1 --hitcount 2") + " -j DROP",
    ],
    "networks, both directions": [
        recent("k", "--set", mask="--mask 255.255.255.0 --rdest"),
        recent("k", "--rcheck --seconds 1 --hitcount 3", mask="--mask 255.255.255.0 --rsource") + " -j DROP",
    ],
}


@pytest.mark.parametrize("seed", [1, 2])
def test_lists_of_recent_are_equal(seed: int) -> None:
    """Hundreds of packets to all lists, from several addresses, over many seconds: no verdict differs."""
    ports = dict(enumerate(LISTS.values(), 1))
    rules = [f"-p udp -m udp --dport {port} {rule}" for port, several in ports.items() for rule in several]
    chance = random.Random(seed)
    differences, dropped = [], 0
    with Twins(rules) as twins:
        begun = time.monotonic()
        for tick in range(20):
            time.sleep(max(0.0, begun + tick * TICK - time.monotonic()))
            for port in ports:
                for source in SOURCES:
                    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
                        legacy, nft = twins.send(source, port, to=chance.choice(TARGETS))
                        dropped += not legacy
                        if legacy != nft:
                            differences.append((tick, list(LISTS)[port - 1], source, legacy, nft))
    assert (differences, dropped > 100) == ([], True)


@pytest.mark.parametrize("hits", [2, 4, 20])
def test_a_flood_does_not_confuse_a_list(hits: int) -> None:
    """After thousands of hits of one address in a moment the list is as right as before."""
    rules = [recent("a", "--set"), recent("a", f"--update --seconds 2 --hitcount {hits}") + " -j DROP"]
    chance = random.Random(hits)
    with Twins([f"-p udp {rule}" for rule in rules]) as twins:
        seen = [twins.send(SOURCES[0]) for _ in range(3000)]
        begun = time.monotonic()
        for tick in range(12):
            time.sleep(max(0.0, begun + tick * TICK - time.monotonic()))
            seen += [twins.send(source) for source in SOURCES[:2] if chance.random() < 0.6]
    assert [pair for pair in seen if pair[0] != pair[1]] == []


HASHLIMIT = "-m hashlimit --hashlimit-name x"
BY_NET_AND_PORT = "--hashlimit-mode srcip,dstport --hashlimit-srcmask 16"
BURSTS = {
    f"{HASHLIMIT} --hashlimit-above 1/min --hashlimit-burst 5 --hashlimit-mode srcip": 30,
    f"{HASHLIMIT} --hashlimit-upto 1/min --hashlimit-burst 5 --hashlimit-mode srcip,dstip": 60,
    f"{HASHLIMIT} --hashlimit-upto 1/min --hashlimit-burst 7": 20,
    f"{HASHLIMIT} --hashlimit-above 1/hour --hashlimit-burst 4 {BY_NET_AND_PORT}": 60,
    f"{HASHLIMIT} --hashlimit-above 1/day --hashlimit-burst 3 --hashlimit-mode srcport,dstport,dstip": 60,
    f"{HASHLIMIT} --hashlimit-above 1/min --hashlimit-burst 1 --hashlimit-mode dstport --hashlimit-htable-size 4 "
    "--hashlimit-htable-max 5": 60,
    f"{HASHLIMIT} --hashlimit-upto 1/min --hashlimit-burst 1 --hashlimit-mode dstport --hashlimit-htable-size 4 "
    "--hashlimit-htable-max 5": 60,
    f"{HASHLIMIT} --hashlimit-above 1kb/s --hashlimit-mode srcip": 15,
    "-m limit --limit 1/min --limit-burst 5": 20,
    "-m limit --limit 7/min --limit-burst 100": 130,
    "-m limit --limit 1000/day --limit-burst 250": 300,
    "-m quota --quota 1000": 50,
    "-m quota ! --quota 1000": 50,
    "-m quota --quota 0": 5,
    "-m statistic --mode nth --every 3 --packet 1": 30,
    "-m statistic --mode nth ! --every 5 --packet 4": 30,
    "-m limit --limit 1/min --limit-burst 12 -m statistic --mode nth --every 5 --packet 4 -m quota --quota 80": 30,
}


@pytest.mark.parametrize(("rule", "packets"), BURSTS.items(), ids=BURSTS)
def test_a_burst_without_a_pause_is_treated_equally(rule: str, packets: int) -> None:
    """Each packet of the burst gets the same verdict, and some are dropped and some are not."""
    size = 300 if "kb/s" in rule else 0
    with Twins([f"-p udp {rule} -j DROP"]) as twins:
        seen = [
            twins.send(SOURCES[n % 3], 1 + n % 7, to=TARGETS[n // 3 % 2], size=size or n % 5) for n in range(packets)
        ]
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert len(set(seen)) == (1 if "--quota 0" in rule else 2)


REFILLS = {
    f"{HASHLIMIT} --hashlimit-above 2/sec --hashlimit-burst 2 --hashlimit-mode srcip": (1.3, 1.3, 3.5),
    f"{HASHLIMIT} --hashlimit-above 1/min --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-htable-expire 1000": (
        0.5, 0.5, 2.5),
    "-m limit --limit 2/sec --limit-burst 3": (0.7, 0.6, 0.4),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "pauses"), REFILLS.items(), ids=REFILLS)
def test_a_bucket_fills_up_as_fast(rule: str, pauses: tuple[float, ...]) -> None:
    """Bursts with pauses between them: as many packets get through, and a key is forgotten after its time.

    The pauses leave every bucket with a part of a token, far from the next one.
    """
    with Twins([f"-p udp {rule} -j DROP"]) as twins:
        seen = [twins.send(SOURCES[n % 2]) for n in range(16)]
        for pause in pauses:
            time.sleep(pause)
            seen += [twins.send(SOURCES[n % 2]) for n in range(16)]
    assert [pair for pair in seen if pair[0] != pair[1]] == []


def test_rules_of_one_name_share_their_limits() -> None:
    """Whether they want what is above or below, the rules of one name use up the same tokens."""
    limit = f"{HASHLIMIT} --hashlimit-burst 5 --hashlimit-mode srcip"
    rules = [
        f"-p udp -m udp --dport 1 {limit} --hashlimit-above 1/min -j DROP",
        f"-p udp -m udp --dport 2 {limit} --hashlimit-upto 1/min -j DROP",
        f"-p udp -m udp --dport 3 {limit} --hashlimit-above 1/min -j DROP",
    ]
    with Twins(rules) as twins:
        assert twins.translation.exact
        seen = [twins.send(SOURCES[n % 2], 1 + n % 3) for n in range(48)]
    assert [pair for pair in seen if pair[0] != pair[1]] == []


SIXES = [
    f"{HASHLIMIT} --hashlimit-mode srcip,dstport --hashlimit-srcmask 64 --hashlimit-above 1/min --hashlimit-burst 5",
    f"{HASHLIMIT} --hashlimit-mode srcip --hashlimit-upto 1/min --hashlimit-burst 5",
    "-m recent --update --seconds 9 --hitcount 3 --name q --mask ffff:ffff:ffff:ffff:: --rsource",
]


@pytest.mark.parametrize("rule", SIXES)
def test_ipv6_is_no_different(rule: str) -> None:
    """The same of IPv6, with prefixes."""
    rules = ["-p udp -m recent --set --name q --mask ffff:ffff:ffff:ffff:: --rsource", f"-p udp {rule} -j DROP"]
    with Twins(rules, Family.IPV6) as twins:
        for address in SOURCES6:
            twins.add_address(address)
        seen = [twins.send(SOURCES6[n % 3], 1 + n % 2) for n in range(48)]
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert len(set(seen)) == 2


@pytest.mark.parametrize("options", ["--probability 0.3", "! --probability 0.1"])
def test_chance_is_the_same(options: str) -> None:
    """As many of 4,000 packets are dropped as chance allows: within five deviations of each other."""
    with Twins([f"-p udp -m statistic --mode random {options} -j DROP"]) as twins:
        seen = [twins.send(SOURCES[0]) for _ in range(4000)]
    legacy, nft = (sum(not pair[side] for pair in seen) for side in (0, 1))
    assert abs(legacy - nft) < 5 * (2 * 4000 * 0.3 * 0.7) ** 0.5


SYN = "-p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN"
CONNLIMITS = {
    "above": ["-m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j REJECT"],
    "networks": ["-m connlimit --connlimit-above 3 --connlimit-mask 24 --connlimit-saddr -j REJECT"],
    "targets": ["-m connlimit --connlimit-above 5 --connlimit-mask 32 --connlimit-daddr -j REJECT"],
    "all": ["-m connlimit --connlimit-above 6 --connlimit-mask 0 --connlimit-saddr -j REJECT"],
    "none": ["-m connlimit --connlimit-above 0 --connlimit-mask 32 --connlimit-saddr -j REJECT"],
    "upto": ["-m connlimit --connlimit-upto 3 --connlimit-mask 31 --connlimit-saddr -j ACCEPT", "-j REJECT"],
}


@pytest.mark.parametrize("rules", CONNLIMITS.values(), ids=CONNLIMITS)
def test_connections_are_counted_equally(rules: list[str]) -> None:
    """Connections that come and go: the same ones are refused."""
    chance = random.Random(3)
    steps = [(chance.choice("ooox"), chance.choice(SOURCES), chance.choice(TARGETS)) for _ in range(50)]
    with Twins([f"{SYN} {rule}".replace("REJECT", "REJECT --reject-with tcp-reset") for rule in rules]) as twins:
        assert twins.translation.exact
        seen = [_connected(side, steps) for side in (twins.legacy, twins.nft)]
    assert seen[0] == seen[1]
    assert False in seen[0]


def _connected(namespace: object, steps: list[tuple[str, str, str]]) -> list[bool]:
    """Open and abort connections in a namespace; which of them could be opened."""
    found, living = [], []
    with namespace:  # type: ignore[attr-defined]
        server = socket.create_server(("", 80), backlog=100)
        for step, source, target in steps:
            if step == "o":
                try:
                    living.append((source, socket.create_connection((target, 80), 5, (source, 0)), server.accept()[0]))
                    found.append(True)
                except ConnectionRefusedError:
                    found.append(False)
                continue
            closing = next((each for each in living if each[0] == source), None)
            if closing is not None:
                living.remove(closing)
                closing[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                for end in closing[1:]:
                    end.close()
                time.sleep(0.01)  # so that the kernel looks at the list in another tick
        for _, *ends in living:
            for end in ends:
                end.close()
        server.close()
    return found


def test_what_is_left_of_a_quota_is_taken_over() -> None:
    """A rule that has counted 700 of 1,000 bytes lets 300 more through."""
    with Twins(["[7:700] -A OUTPUT -p udp -m quota --quota 1000 -j ACCEPT", "-p udp -j DROP"]) as twins:
        (loss,) = twins.translation.losses
        assert loss.fidelity is Fidelity.APPROXIMATED
        assert [twins.send(SOURCES[0], size=72)[1] for _ in range(5)] == [True, True, True, False, False]
