"""Rules that differ in one value become one rule with a set, and only where no packet can tell."""

from __future__ import annotations

import pytest

from nfkeep import Family, migrate


def rules(*lines: str, optimize: bool = True) -> list[str]:
    """The rules that those of a user chain become."""
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":x - [0:0]", ":y - [0:0]", *lines, "COMMIT", ""])
    script = migrate.translate(text, Family.IPV4, optimize=optimize).script
    return [line.strip() for line in script.partition("\tchain x {\n")[2].partition("\t}")[0].splitlines()]


TRACKING = "-A x -m conntrack --ctstate ESTABLISHED"  # so that there are no fragments to think of

JOINED = {
    "addresses": (
        ["-A x -s 192.0.2.1/32 -j DROP", "-A x -s 192.0.2.9/32 -j DROP", "-A x -s 198.51.100.0/24 -j DROP"],
        ["ip saddr { 192.0.2.1, 192.0.2.9, 198.51.100.0/24 } counter drop"],
    ),
    "a network and what is in it": (
        ["-A x -s 192.0.2.1/32 -j DROP", "-A x -s 192.0.2.0/24 -j DROP", "-A x -s 192.0.2.1/32 -j DROP"],
        ["ip saddr 192.0.2.0/24 counter drop"],
    ),
    "ports that overlap": (
        ["-A x -p tcp -m tcp --dport 80:90 -j RETURN", "-A x -p tcp -m tcp --dport 85:100 -j RETURN", TRACKING],
        ["tcp dport 80-100 counter return", "ct state established counter"],
    ),
    "interfaces": (
        ["-A x -i eth0 -j ACCEPT", "-A x -i eth1 -j ACCEPT"],
        ['iifname { "eth0", "eth1" } counter accept'],
    ),
    "what was counted": (
        ["[1:10] -A x -s 192.0.2.1/32 -g y", "[2:20] -A x -s 192.0.2.9/32 -g y"],
        ["ip saddr { 192.0.2.1, 192.0.2.9 } counter packets 3 bytes 30 goto y"],
    ),
    "the same comment": (
        ["-A x -s 192.0.2.1/32 -m comment --comment c -j DROP", "-A x -s 192.0.2.9/32 -m comment --comment c -j DROP"],
        ['ip saddr { 192.0.2.1, 192.0.2.9 } counter drop comment "c"'],
    ),
    "different comments": (
        ["-A x -s 192.0.2.1/32 -m comment --comment c -j DROP", "-A x -s 192.0.2.9/32 -m comment --comment d -j DROP"],
        ["ip saddr { 192.0.2.1, 192.0.2.9 } counter drop"],
    ),
    "two runs": (
        [*(f"-A x -s 192.0.2.{n}/32 -j DROP" for n in (1, 3)), *(f"-A x -s 192.0.2.{n}/32 -j ACCEPT" for n in (5, 7))],
        ["ip saddr { 192.0.2.1, 192.0.2.3 } counter drop", "ip saddr { 192.0.2.5, 192.0.2.7 } counter accept"],
    ),
}  # fmt: skip

APART = {
    "another verdict": ["-A x -s 192.0.2.1/32 -j DROP", "-A x -s 192.0.2.9/32 -j ACCEPT"],
    "a jump, from which packets come back": ["-A x -s 192.0.2.1/32 -j y", "-A x -s 192.0.2.9/32 -j y"],
    "no verdict": ["-A x -s 192.0.2.1/32", "-A x -s 192.0.2.9/32"],
    "negations": ["-A x ! -s 192.0.2.1/32 -j DROP", "-A x ! -s 192.0.2.9/32 -j DROP"],
    "two differences": ["-A x -s 192.0.2.1/32 -i eth0 -j DROP", "-A x -s 192.0.2.9/32 -i eth1 -j DROP"],
    "another direction": ["-A x -s 192.0.2.1/32 -j DROP", "-A x -d 192.0.2.1/32 -j DROP"],
    "the beginnings of names": ["-A x -i eth+ -j DROP", "-A x -i ppp+ -j DROP"],
    "a rule between": ["-A x -s 192.0.2.1/32 -j DROP", "-A x -i lo -j ACCEPT", "-A x -s 192.0.2.9/32 -j DROP"],
    "a mask with gaps": ["-A x -s 1.0.3.0/255.0.255.0 -j DROP", "-A x -s 1.0.4.0/255.0.255.0 -j DROP"],
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), JOINED.values(), ids=JOINED)
def test_joins(lines: list[str], expected: list[str]) -> None:
    """One rule says what several did."""
    assert rules(*lines) == expected


@pytest.mark.parametrize("lines", APART.values(), ids=APART)
def test_leaves_alone(lines: list[str]) -> None:
    """Where it would make a difference, or nft could not write it, rules stay as they are."""
    assert rules(*lines) == rules(*lines, optimize=False)


def test_only_when_asked() -> None:
    """Each rule keeps its own counter otherwise."""
    assert len(rules("-A x -s 192.0.2.1/32 -j DROP", "-A x -s 192.0.2.9/32 -j DROP", optimize=False)) == 2
