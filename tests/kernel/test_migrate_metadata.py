"""Matches on metadata and connections do in nft what they do in iptables, packet by packet."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import translate
from nfkeep.migrate.verify import Harness, Packet
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

BOTH = {
    "filter INPUT": """
        -m conntrack ! --ctstate NEW
        -m conntrack ! --ctstate ESTABLISHED,SNAT
        -m conntrack --ctstate INVALID --ctproto 6
        -m conntrack ! --ctstate NEW --ctproto 6
        -m conntrack ! --ctstate ESTABLISHED,SNAT --ctproto 17
        -m conntrack ! --ctproto 6
        -m conntrack --ctproto 6 ! --ctorigdstport 80
        -m conntrack --ctorigdstport 80
        -m conntrack --ctorigsrcport 0:1023
        -m conntrack ! --ctorigdstport 0:65535
        -m conntrack --ctdir REPLY
        -m conntrack --ctstatus NONE
        -m conntrack ! --ctstatus SEEN_REPLY,ASSURED
        -m conntrack --ctexpire 1:100
        -m conntrack ! --ctexpire 100:4294967295
        -m state ! --state NEW,INVALID
        -m connbytes ! --connbytes 0:1 --connbytes-mode packets --connbytes-dir both
        -m connbytes --connbytes 0:0 --connbytes-mode packets --connbytes-dir reply
        -m connbytes --connbytes 40:60 --connbytes-mode avgpkt --connbytes-dir original
        -m mac ! --mac-source 02:00:00:aa:00:01
        -m devgroup ! --src-group 0x0
        -m addrtype --dst-type LOCAL --limit-iface-in
        -m cgroup --cgroup 0
        -m cgroup ! --path "/"
        -m policy --dir in --pol none
    """,
    "filter FORWARD": """
        -m connmark ! --mark 0x1/0
        -m connlabel --label 41 --set
        -m helper ! --helper ftp
        -m pkttype ! --pkt-type unicast
        -m addrtype ! --src-type LOCAL
        -m addrtype --dst-type UNICAST,LOCAL
        -m addrtype ! --dst-type UNICAST --limit-iface-out
        -m time --timestart 05:00:00 --timestop 05:00:00
        -m time --timestart 12:00:00 --timestop 11:59:58 --contiguous ! --weekdays Mon
        -m time --timestart 12:00:00 --timestop 11:59:58 --contiguous ! --monthdays 1,10,20
        -m time --datestart 2020 --datestop 2037-01-01
    """,
    "filter OUTPUT": """
        -m owner ! --uid-owner 0
        -m owner --gid-owner 0 ! --uid-owner 5
        -m owner ! --gid-owner 0 ! --uid-owner 5
        -m cgroup ! --cgroup 1
        -m policy --dir out --pol ipsec
    """,
    "mangle PREROUTING": """
        -m rpfilter --invert
        -m rpfilter --loose --validmark --accept-local
        -m socket --nowildcard --restore-skmark
    """,
    "raw PREROUTING": """
        -m conntrack --ctstate INVALID --ctproto 6
        -m conntrack ! --ctproto 6
        -m connmark ! --mark 5
        -m connlabel ! --label 40
        -m connlabel ! --label 40 --set
        -m helper ! --helper ftp
    """,
}
IPV4 = {
    "mangle PREROUTING": """
        -m cluster --cluster-local-nodemask 0x00000002 --cluster-total-nodes 2 --cluster-hash-seed 0xfeedcafe
        -m cluster ! --cluster-local-nodemask 0x00000005 --cluster-total-nodes 5 --cluster-hash-seed 0x00000000
    """,
    "filter FORWARD": "-m realm ! --realm 0x0",
    "filter INPUT": "-m addrtype ! --src-type BROADCAST,MULTICAST",
}
CASES = [
    (family, *where.split(), rule.strip())
    for family, rules in ((Family.IPV4, BOTH), (Family.IPV6, BOTH), (Family.IPV4, IPV4))
    for where, text in rules.items()
    for rule in text.strip().splitlines()
]


@pytest.fixture(scope="module")
def harnesses() -> Iterator[dict[Family, Harness]]:
    """Two hosts for each family."""
    with Harness(Family.IPV4) as ipv4, Harness(Family.IPV6) as ipv6:
        yield {Family.IPV4: ipv4, Family.IPV6: ipv6}


@pytest.mark.parametrize(
    ("family", "table", "chain", "rule"), CASES, ids=[f"{family} {chain} {rule}" for family, _, chain, rule in CASES]
)
def test_same_fate(family: Family, table: str, chain: str, rule: str, harnesses: dict[Family, Harness]) -> None:
    """Each packet goes through the rule of iptables and through its translation alike."""
    text = f"*{table}\n:{chain} ACCEPT [0:0]\n-A {chain} {rule} -j DROP\nCOMMIT\n"
    translation = translate(text, family)
    assert all(loss.fidelity is Fidelity.APPROXIMATED for loss in translation.losses)
    assert harnesses[family].compare(text, translation.script, 40).differences == ()


def test_the_same_nodes(harnesses: dict[Family, Harness]) -> None:
    """Connections from many sources are dealt out alike, and frames to a multicast address are taken alike."""
    nodes = "--cluster-local-nodemask 0x00000012 --cluster-total-nodes 5 --cluster-hash-seed 0xfeedcafe"
    text = f"*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m cluster {nodes} -j DROP\nCOMMIT\n"
    packets = [
        Packet(Family.IPV4, "in0", leaves, f"192.0.2.{number}", "203.0.113.77", sport=number, destination_mac=address)
        for number in range(1, 40)
        for leaves in ("out0", None)
        for address in (None, bytes.fromhex("01005e000001"))
    ]
    assert harnesses[Family.IPV4].compare(text, translate(text).script, packets).differences == ()


def test_the_clock_is_the_same_for_whoever_loads_it() -> None:
    """nft makes the same instructions of the script in every time zone."""
    rules = "-m time --timestart 23:00:00 --timestop 01:00:00 --weekdays Mon --monthdays 1,2 --datestart 2026-01-01"
    script = translate(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rules} --contiguous\nCOMMIT\n").script
    with contextlib.closing(Namespace()) as namespace:
        said = {
            namespace.run("nft --debug=netlink -c -f -", input=script, env={**os.environ, "TZ": zone}).stdout
            for zone in ("UTC", "Asia/Tokyo", "America/New_York")
        }
    assert len(said) == 1
    assert "meta load hour" in said.pop()
