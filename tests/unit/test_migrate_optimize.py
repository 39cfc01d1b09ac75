"""Runs of like rules become lookups, and only those where that changes nothing."""

from __future__ import annotations

import pytest

from nfkeep.migrate.translation import translate


def script(rules: list[str]) -> str:
    """The optimised chain INPUT of these rules."""
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":user - [0:0]", *rules, "COMMIT", ""])
    return translate(text, optimize=True).script


def lines(text: str) -> list[str]:
    """The rules of its chain INPUT."""
    body = text.partition("chain INPUT {\n")[2].partition("\n\t}")[0]
    return [line.strip() for line in body.splitlines()][1:-1]


def run(count: int, rule: str) -> list[str]:
    """So many rules, with the number of each in place of `{}`."""
    return [f"-A INPUT {rule.replace('{}', str(n))}" for n in range(count)]


def test_a_run_of_addresses_is_one_lookup() -> None:
    """Each element has what its rule had counted, and its comment."""
    rules = [f"[{n}:{n * 60}] -A INPUT -s 10.0.0.{n}/32 -m comment --comment no{n} -j DROP" for n in range(20)]
    text = script(rules)
    assert lines(text) == ["ip saddr @INPUT-ip-saddr drop"]
    assert '10.0.0.7 counter packets 7 bytes 420 comment "no7",' in text


def test_different_verdicts_are_a_map() -> None:
    """The other tests stay in front of it."""
    rules = [f"-A INPUT -s 10.{n}.0.0/16 -i eth0 -j {'DROP' if n % 2 else 'user'}" for n in range(20)]
    text = script(rules)
    assert lines(text) == ['iifname "eth0" ip saddr vmap @INPUT-ip-saddr']
    assert "10.4.0.0/16 counter packets 0 bytes 0 : jump user," in text
    assert "flags interval" in text


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (run(5, "-s 10.0.0.{}/32 -j DROP"), 5),
        (run(20, "-s 10.0.0.{}/32 -m limit --limit 1/sec -j DROP"), 20),
        (run(20, "! -s 10.0.0.{}/32 -j DROP"), 20),
        (run(20, "-s 10.0.0.0/{} -j DROP"), 20),
        (run(20, "-s 10.0.0.{}/32"), 20),
        (run(20, "-i eth{}+ -j DROP"), 20),
        (run(20, "-s 10.0.0.{}/32 -d 10.1.0.{}/32 -j DROP"), 20),
    ],
    ids=["short", "limit", "negated", "overlapping", "no end", "wildcards", "two differ"],
)
def test_what_might_differ_stays_in_a_row(rules: list[str], kept: int) -> None:
    """A run is left alone where it is short, keeps state, or where a packet could meet two of its rules."""
    found = [line for line in lines(script(rules)) if not line.startswith("#")]
    assert sum("@" in line for line in found) == 0
    assert len(found) >= kept - 1  # -s 10.0.0.0/0 is no test at all, but a rule


def test_another_rule_between_ends_a_run() -> None:
    """Order is kept."""
    rules = [*run(14, "-s 10.0.0.{}/32 -j DROP"), "-A INPUT -i lo -j ACCEPT", *run(14, "-s 10.1.0.{}/32 -j DROP")]
    assert lines(script(rules)) == [
        "ip saddr @INPUT-ip-saddr drop",
        'iifname "lo" counter accept',
        "ip saddr @INPUT-ip-saddr-2 drop",
    ]
