"""Rules that keep state, as nft has them: named sets and objects, and what is said where the two differ."""

from __future__ import annotations

import pytest
from corpus import extension_lines, needs_corpus
from twins import filter_table

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import Translation, translate

ALL = "--mask 255.255.255.255 --rsource"


def of(*rules: str, family: Family = Family.IPV4, ipsets: str = "") -> Translation:
    return translate(filter_table(list(rules)), family, ipsets=ipsets)


def rules_in(translation: Translation, chain: str) -> list[str]:
    """The rules of a chain of the script, without that of its policy."""
    lines = translation.script.split(f"chain {chain} {{")[1].split("\n\t}")[0].splitlines()
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("#", "type "))]
    return [line for line in found if "policy" not in line]


def declared(translation: Translation, what: str) -> list[str]:
    """What is in the body of a set or an object."""
    body = translation.script.split(f"\t{what} {{")[1].split("\n\t}")[0]
    return [line.strip() for line in body.splitlines() if line.strip()]


IN_ONE_RULE = {
    "-p udp -m limit --limit 3/min --limit-burst 7 -j ACCEPT": (
        'ip protocol udp limit name "limit-OUTPUT" counter accept', "limit limit-OUTPUT",
        ["rate 3/minute burst 7 packets"]),
    "-m limit --limit 1000/day -j ACCEPT": (
        'limit name "limit-OUTPUT" counter accept', "limit limit-OUTPUT", ["rate 1005/day burst 5 packets"]),
    "-m quota --quota 500 -j ACCEPT": ('quota name "quota-OUTPUT" counter accept', "quota quota-OUTPUT", ["500 bytes"]),
    "-m quota ! --quota 500 -j ACCEPT": (
        'quota name "quota-OUTPUT" counter accept', "quota quota-OUTPUT", ["over 500 bytes"]),
    "[3:300] -A OUTPUT -m quota --quota 500000 -j ACCEPT": (
        'quota name "quota-OUTPUT" counter packets 3 bytes 300 accept', "quota quota-OUTPUT",
        ["500000 bytes used 300 bytes"]),
    "-p tcp -m connlimit --connlimit-above 3 --connlimit-mask 24 --connlimit-saddr -j DROP": (
        "ip protocol tcp add @connlimit-OUTPUT { ip saddr & 255.255.255.0 ct count over 3 } counter drop",
        "set connlimit-OUTPUT", ["typeof ip saddr", "size 262144", "flags dynamic"]),
    "-m connlimit --connlimit-upto 3 --connlimit-mask 32 --connlimit-daddr -j ACCEPT": (
        "add @connlimit-OUTPUT { ip daddr ct count 3 } counter accept",
        "set connlimit-OUTPUT", ["typeof ip daddr", "size 262144", "flags dynamic"]),
    f"-m recent --rcheck --seconds 60 --name a {ALL} -j DROP": (
        "ip saddr @recent-a-60s counter drop",
        "set recent-a-60s", ["type ipv4_addr", "size 65535", "flags dynamic,timeout", "timeout 60s"]),
    "-m recent --set --name a --mask 255.255.0.0 --rdest": (
        "update @recent-a { ip daddr & 255.255.0.0 } counter",
        "set recent-a", ["type ipv4_addr", "size 65535", "flags dynamic"]),
    "-m nfacct --nfacct-name web -j ACCEPT": ('counter name "web" counter accept', "counter web", []),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), IN_ONE_RULE.items(), ids=IN_ONE_RULE)
def test_state_is_in_something_with_a_name(rule: str, expected: tuple[str, str, list[str]]) -> None:
    """A rule asks a set or an object by name, and that is declared with its size."""
    text, what, body = expected
    found = of(rule)
    assert (rules_in(found, "OUTPUT"), declared(found, what)) == ([text], body)


STATISTICS = {
    "--mode nth --every 3 --packet 1": "numgen inc mod 3 1",
    "--mode nth ! --every 5 --packet 4": "numgen inc mod 5 != 4",
    "--mode random --probability 0.50000000000": "meta random & 2147483647 < 1073741824",
    "--mode random ! --probability 0.25000000000": "meta random & 2147483647 >= 536870912",
}


@pytest.mark.parametrize(("options", "expected"), STATISTICS.items())
def test_statistic_is_exact(options: str, expected: str) -> None:
    """Every nth packet is the nth, and chance is by the same 31 bits."""
    found = of(f"-m statistic {options} -j DROP")
    assert (rules_in(found, "OUTPUT"), found.exact) == ([f"{expected} counter drop"], True)


def test_no_chance_at_all_is_no_rule() -> None:
    """A probability that rounds to nothing matches no packet, and its opposite every one."""
    found = of(
        "-m statistic --mode random --probability 0.00000000000 -j DROP",
        "-m statistic --mode random ! --probability 0.00000000000 -j ACCEPT",
    )
    assert rules_in(found, "OUTPUT") == ["counter accept"]


def test_what_never_matches_still_keeps_its_list() -> None:
    """`! --set` never matches, but it adds the address."""
    found = of(f"-m recent ! --set --name a {ALL} -j DROP")
    assert rules_in(found, "OUTPUT") == ["update @recent-a { ip saddr }"]


def test_rules_on_one_list_keep_all_its_sets_in_step() -> None:
    """Who adds to a list adds to the sets of every age that some rule asks about, in other tables too."""
    here = filter_table([f"-m recent --set --name a {ALL}", f"-m recent --rcheck --seconds 60 --name a {ALL} -j DROP"])
    there = (
        f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m recent --rcheck --seconds 5 --name a {ALL} -j DROP\nCOMMIT\n"
    )
    found = translate(here + there)
    assert rules_in(found, "filter-OUTPUT") == [
        "update @recent-a-5s { ip saddr } update @recent-a-60s { ip saddr } counter",
        "ip saddr @recent-a-60s counter drop",
    ]
    assert rules_in(found, "raw-PREROUTING") == ["ip saddr @recent-a-5s counter drop"]


def test_hits_are_counted_by_slots_that_all_have_to_be_alive() -> None:
    """Three hits in ten seconds are three sets with a timeout of ten seconds."""
    found = of(f"-m recent --rcheck --seconds 10 --hitcount 3 --name a {ALL} -j DROP")
    slots = " ".join(f"ip saddr @recent-a-10s-hit-{number}-of-3" for number in (1, 2, 3))
    assert rules_in(found, "OUTPUT") == [f"{slots} counter drop"]


HASHLIMITS = {
    "--hashlimit-above 20/min --hashlimit-burst 5 --hashlimit-mode srcip": (
        "update @hashlimit-x-limits { ip saddr limit rate over 20/minute burst 5 packets } counter drop",
        ["type ipv4_addr", "size 65536", "flags dynamic,timeout", "timeout 60s"]),
    "--hashlimit-upto 3/sec --hashlimit-burst 9 --hashlimit-mode dstip --hashlimit-dstmask 24": (
        "update @hashlimit-x-limits { ip daddr & 255.255.255.0 limit rate 3/second burst 9 packets } counter drop",
        ["type ipv4_addr", "size 65536", "flags dynamic,timeout", "timeout 1s"]),
    "--hashlimit-upto 3/sec --hashlimit-burst 9 --hashlimit-mode srcip,dstport --hashlimit-htable-size 10 "
    "--hashlimit-htable-max 20 --hashlimit-htable-expire 1500": (
        "update @hashlimit-x-limits { ip saddr . tcp dport limit rate 3/second burst 9 packets } counter drop",
        ["type ipv4_addr . inet_service", "size 20", "flags dynamic,timeout", "timeout 1s500ms"]),
    "--hashlimit-upto 3/hour --hashlimit-burst 9": (
        "update @hashlimit-x-limits { ip saddr & 0.0.0.0 limit rate 3/hour burst 9 packets } counter drop",
        ["type ipv4_addr", "size 65536", "flags dynamic,timeout", "timeout 3600s"]),
}  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), HASHLIMITS.items())
def test_hashlimit_limits_each_key(options: str, expected: tuple[str, list[str]]) -> None:
    """The key has a limit of its own, and is forgotten when iptables forgets it; who finds no room is dropped."""
    found = of(f"-p tcp -m state --state NEW -m tcp --dport 80 -m hashlimit {options} --hashlimit-name x -j DROP")
    limit, keys = expected
    key = limit.split("{ ")[1].split(" limit")[0]
    assert rules_in(found, "OUTPUT-rule1")[-2:] == [f"update @hashlimit-x-keys {{ {key} }} goto OUTPUT-rule2", "drop"]
    assert (rules_in(found, "OUTPUT-rule2"), declared(found, "set hashlimit-x-keys")) == ([limit], keys)
    assert found.exact


LOST = {
    "-m recent --update --rttl --name a": "TTL",
    f"-m recent --rcheck --hitcount 300 --name a {ALL}": "too many sets",
    "-m hashlimit --hashlimit-upto 4/sec --hashlimit-mode srcip --hashlimit-name a --hashlimit-rate-match": "intervals",
    "-m rateest --rateest RE1 --rateest-lt --rateest-bps 8bit": "estimate",
    "-m set --match-set nobody src": "not known",
}
NEARLY = {
    "-m limit --limit 60/sec": "60.2637/second",
    "-m limit --limit 9000/sec --limit-burst 5": "within a tick",
    "-m hashlimit --hashlimit-above 1/day --hashlimit-burst 3 --hashlimit-name a": "its burst is 1 packets",
    "-m quota --quota 18446744073709551615": "9223372036854775807",
    "[9:900] -A OUTPUT -m quota --quota 1000": "100 bytes are left",
    "[9:900] -A OUTPUT -m quota --quota 100": "begun anew",
    "[9:900] -A OUTPUT -m quota --quota 100000 -p udp -m udp --dport 5": "used the quota up too",
    f"-m recent --set --name a {ALL}": "room for 65535 addresses",
    f"-m recent --rcheck --seconds 9 --hitcount 2 --name a {ALL}": "quarter of a second",
    "-m hashlimit --hashlimit-upto 4kb/s --hashlimit-mode srcip --hashlimit-name a": "1 to 16 bytes",
    "-m hashlimit --hashlimit-upto 4/sec --hashlimit-mode srcport --hashlimit-name a": "later fragments",
    "-m nfacct --nfacct-name web": "begins at zero",
}


@pytest.mark.parametrize(("rule", "words"), [*LOST.items(), *NEARLY.items()])
def test_what_differs_is_said(rule: str, words: str) -> None:
    """What nft cannot express is lost, and what it nearly can is approximated, each with its reason."""
    found = of(f"{rule} -j DROP")
    told = " ".join(loss.reason for loss in found.losses)
    fidelities = {loss.fidelity for loss in found.losses}
    assert words in told, told
    assert fidelities == {Fidelity.LOST if rule in LOST else Fidelity.APPROXIMATED}


def test_a_lost_rule_leaves_nothing_behind() -> None:
    """What was declared for a rule that cannot be translated is not in the script."""
    found = of(f"-m recent --set --name a {ALL} -m recent --update --rttl --name a {ALL} -j DROP")
    assert "set recent" not in found.script


@pytest.mark.parametrize("other", ["--hashlimit-above 5/min", "--hashlimit-upto 4/min --hashlimit-srcmask 24"])
def test_one_name_with_different_numbers_is_lost(other: str) -> None:
    """The kernel takes the numbers of the rule loaded first for all rules of the name."""
    found = of(
        "-m hashlimit --hashlimit-above 4/min --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name x -j DROP",
        f"-m hashlimit {other} --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name x -j DROP",
    )
    assert [loss.fidelity for loss in found.losses] == [Fidelity.LOST] * 2


FILES = {"connlimit", "recent", "hashlimit", "limit", "quota", "statistic", "nfacct", "rateest", "RATEEST"}


@needs_corpus
def test_all_of_the_corpus_is_translated_or_lost_for_a_reason() -> None:
    """Of iptables' own tests nothing is lost but rates in intervals, estimators and TTLs."""
    for line in extension_lines():
        if line.valid and line.file.removesuffix(".t").partition("_")[2] in FILES:
            found = of(*(f"-A {chain} {line.rule}" for chain in line.chains))
            lost = any(loss.fidelity is Fidelity.LOST for loss in found.losses)
            may_be_lost = any(word in line.rule for word in ("rateest", "--rttl", "--hashlimit-rate-match"))
            assert lost == may_be_lost, (str(line), found.losses)


def test_zones_are_counted_apart() -> None:
    """With zones of conntrack in the rules, a count is of an address in a zone."""
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i a -j CT --zone 3\nCOMMIT\n"
    rule = "-m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j DROP"
    found = translate(filter_table([rule]) + raw)
    assert rules_in(found, "OUTPUT") == ["add @connlimit-OUTPUT { ip saddr . ct zone ct count over 3 } counter drop"]
    assert declared(found, "set connlimit-OUTPUT")[0] == "typeof ip saddr . ct zone"
