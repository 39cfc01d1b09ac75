"""The matches that look at metadata and at connections, as nft text; and those that nft has nothing for."""

from __future__ import annotations

import attrs
import pytest
from corpus import Line, extension_file, extension_files, needs_corpus

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import Translation, translate

OUTPUT = ("filter", "OUTPUT")
PREROUTING = ("mangle", "PREROUTING")


def translated(rule: str, table: str = "filter", chain: str = "INPUT", family: Family = Family.IPV4) -> Translation:
    """What one rule without a target becomes."""
    return translate(f"*{table}\n:{chain} ACCEPT [0:0]\n-A {chain} {rule}\nCOMMIT\n", family)


def conditions(translation: Translation) -> tuple[str, ...]:
    """The rules of the script, in order, without their counters; the helper chains follow the first one."""
    lines = (line.strip() for line in translation.script.splitlines())
    structure = ("#", "type ", "table ", "delete ", "chain ", "}")
    rules = [line for line in lines if line and not line.startswith(structure) and 'comment "policy"' not in line]
    return tuple(rule.removesuffix("counter").strip() for rule in rules)


EXACT = {
    "-m conntrack --ctstate RELATED,ESTABLISHED": ("ct state related,established",),
    "-m conntrack --ctstate est,n": ("ct state established,new",),
    "-m conntrack --ctstate SNAT,DNAT": ("ct status & (snat|dnat) != 0",),
    "-m conntrack ! --ctstate NEW,SNAT": (
        "jump INPUT-rule1",
        "ct state new return",
        "ct status & snat == snat return",
        "",
    ),
    "-m conntrack --ctstate INVALID --ctproto 6": ("ct state invalid",),
    "-m conntrack ! --ctstate NEW,SNAT --ctproto 6": (
        "jump INPUT-rule1",
        "ct state invalid,untracked goto INPUT-rule2",
        "ct state != new ct status & snat != snat ct protocol tcp goto INPUT-rule2",
        "",
    ),
    "-m conntrack --ctorigsrc 10.0.0.0/8 ! --ctrepldst 10.0.0.1": (
        "ct original ip saddr 10.0.0.0/8 ct reply ip daddr != 10.0.0.1",
    ),
    "-m conntrack --ctproto 6 ! --ctorigdstport 80": ("ct protocol tcp ct original proto-dst != 80",),
    "-p udp -m conntrack --ctreplsrcport 1:9": ("ip protocol udp ct protocol udp ct reply proto-src 1-9",),
    "-m conntrack --ctproto 17 --ctorigdstport 0:65535": ("ct protocol udp",),
    "-m conntrack --ctproto 17 ! --ctorigdstport 0:65535": ("ct state & (invalid|untracked) == 0 meta length 0",),
    "-m conntrack --ctproto 50 --ctorigdstport 0:9": ("ct protocol esp",),
    "-m conntrack --ctproto 50 --ctorigdstport 9": ("ct state & (invalid|untracked) == 0 meta length 0",),
    "-m conntrack --ctstatus NONE": ("ct state & (invalid|untracked) == 0 meta length 0",),
    "-m conntrack ! --ctstatus NONE": ("ct state & (invalid|untracked) == 0",),
    "-m conntrack ! --ctstatus ASSURED,CONFIRMED": ("ct status & (assured|confirmed) == 0",),
    "-m conntrack --ctexpire 5:10 --ctdir REPLY": ("ct expiration 5s-10s999ms ct direction reply",),
    "-m conntrack ! --ctexpire 7:4294967295": ("ct expiration < 7s",),
    "-m connmark ! --mark 0x1/0x3": ("ct mark & 0x3 != 0x1",),
    "-m connmark --mark 0x0/0x0": ("ct state & (invalid|untracked) == 0",),
    "-m connmark --mark 0x1/0x0": ("ct state & (invalid|untracked) == 0 meta length 0",),
    "-m connbytes --connbytes 10 --connbytes-mode bytes --connbytes-dir both": ("ct bytes 10-18446744073709551615",),
    "-m connbytes --connbytes 0:9 --connbytes-mode packets --connbytes-dir reply": (
        "ct packets != 0 ct reply packets 0-9",
    ),
    "-m connbytes ! --connbytes 5:9 --connbytes-mode avgpkt --connbytes-dir original": (
        "ct packets != 0 ct original avgpkt != 5-9",
    ),
    "-m connbytes ! --connbytes 5:5 --connbytes-mode packets --connbytes-dir both": ("ct packets 5",),
    '-m connlabel --label "40"': (
        "jump INPUT-rule1",
        "ct label 40 goto INPUT-rule2",
        "meta length 0 ct label set 40 goto INPUT-rule2",
        "",
    ),
    '-m connlabel --label "41" --set': ("ct label set 41 ct label 41",),
    "-m helper --helper ftp": ('ct helper { "f", "ft", "ftp" }',),
    '-m helper --helper ""': ('ct helper != "-"',),
    "-m mark --mark 0x10/0xf0": ("meta mark & 0xf0 == 0x10",),
    "-m pkttype ! --pkt-type unicast": ("meta pkttype != host",),
    "-m mac ! --mac-source 2:0:0:A:0:1": ("ether saddr != 02:00:00:0a:00:01",),
    "-m addrtype --src-type LOCAL,THROW ! --dst-type UNICAST": (
        "fib saddr type { local, 9 } fib daddr type != unicast",
    ),
    "-m addrtype ! --dst-type LOCAL --limit-iface-in": ("fib daddr . iif type != local",),
    "-m realm ! --realm cosmos": ("meta rtclassid != 0x0",),
    "-m realm --realm 0x1/0xff": ("meta rtclassid & 0xff == 0x1",),
    "-m cpu ! --cpu 1": ("meta cpu != 1",),
    "-m devgroup --src-group 0x101/0xff": ("iifgroup & 0xff == 0x1",),
    "-m policy --dir in --pol none": ("meta ipsec missing",),
    "-m policy --dir in --pol ipsec --strict --reqid 1 --next --reqid 2": (
        "ipsec in spnum 0 reqid 2 ipsec in spnum 1 reqid 1 jump INPUT-rule1",
        "ipsec in spnum 2 reqid 0-4294967295 return",
        "",
    ),
    "-m time --timestart 23:00:00 --timestop 01:00:00": ("meta hour { 0-3600, 82800-86399 }",),
    "-m time --timestart 05:00:00 --timestop 05:00:00": ("",),
    "-m time --datestart 2020-01-02T03:04:05 --datestop 2038-01-19T03:14:07": ("meta time >= 1577934245",),
    "-m time --datestop 2030": ("meta time < 1893456001",),
    "-m time ! --weekdays Mon,Tue,Wed,Thu,Fri,Sat,Sun": (),
    "-m cgroup ! --cgroup 5": ("meta cgroup != 5 socket wildcard { 0, 1 }",),
    '-m cgroup --path "a/b.slice"': ('meta cgroup 0-4294967295 socket cgroupv2 level 2 "a/b.slice"',),
}


@pytest.mark.parametrize("rule", EXACT)
def test_what_is_equal(rule: str) -> None:
    """These rules mean the same in nft, and nothing is admitted."""
    translation = translated(rule)
    assert (conditions(translation), translation.losses) == (EXACT[rule], ())


ELSEWHERE = {
    "-m owner ! --uid-owner 5 --gid-owner 1-9": (
        *OUTPUT,
        ("jump OUTPUT-rule1", "meta skuid 5 return", "meta skgid 1-9"),
    ),
    "-m owner --socket-exists --uid-owner root": (*OUTPUT, ("meta skuid 0",)),
    "-m owner ! --socket-exists --uid-owner 0": (*OUTPUT, ()),
    "-m addrtype --src-type LOCAL --limit-iface-out": (*OUTPUT, ("fib saddr . oif type local",)),
    "-m policy --dir out --pol ipsec": (*OUTPUT, ("rt ipsec exists",)),
    "-m rpfilter --invert": (
        *PREROUTING,
        (
            "jump PREROUTING-rule1",
            "fib saddr type != { broadcast, anycast } fib saddr . iif oif != 0 return",
            "ip saddr { 0.0.0.0/8, 255.255.255.255 } fib saddr . iif oif != 0 return",
            "",
        ),
    ),
    "-m rpfilter --loose --validmark --accept-local": (
        *PREROUTING,
        (
            "jump PREROUTING-rule1",
            "fib saddr type != { broadcast, anycast } fib saddr . mark oif != 0 goto PREROUTING-rule2",
            "ip saddr { 0.0.0.0/8, 255.255.255.255 } fib saddr . mark oif != 0 goto PREROUTING-rule2",
            "fib saddr type local goto PREROUTING-rule2",
            "",
        ),
    ),
    "-m socket --transparent": (
        *PREROUTING,
        (
            "jump PREROUTING-rule1",
            "socket transparent 1 goto PREROUTING-rule2",
            "meta length 0 meta l4proto tcp tproxy to :1 goto PREROUTING-rule2",
            "jump PREROUTING-rule3",
            "socket wildcard 1 return",
            "",
        ),
    ),
}


@pytest.mark.parametrize("rule", ELSEWHERE)
def test_what_is_equal_in_other_chains(rule: str) -> None:
    """The same for what may not stand in INPUT."""
    table, chain, expected = ELSEWHERE[rule]
    translation = translated(rule, table, chain)
    assert (conditions(translation), translation.losses) == (expected, ())


def test_a_cluster_takes_frames_for_its_own() -> None:
    """A frame to a multicast address is made the host's own, whether the rule matches or not."""
    translation = translated(f"-m cluster ! {NODES}", *PREROUTING)
    assert conditions(translation) == (
        "jump PREROUTING-rule1",
        "meta pkttype multicast ip daddr != 224.0.0.0/4 meta pkttype set host goto PREROUTING-rule2",
        "meta length != 0 goto PREROUTING-rule2",
        "jhash ct original ip saddr mod 5 seed 0xfeedcafe != { 0, 2 }",
    )


def test_types_of_ipv6_addresses() -> None:
    """With IPv6 the types of an address itself all have to be true, and of those of its route one."""
    translation = translated("-m addrtype --src-type UNICAST,LOCAL,ANYCAST ! --dst-type MULTICAST", family=Family.IPV6)
    source = "ip6 saddr != { ::, ::ffff:0:0/96, ff00::/8 } fib saddr type { local, anycast }"
    assert conditions(translation) == (f"{source} ip6 daddr != ff00::/8",)


def test_the_hours_after_midnight() -> None:
    """With --contiguous they belong to the day before."""
    translation = translated("-m time --timestart 23:00:00 --timestop 01:00:00 --weekdays Sat,Sun --contiguous")
    assert conditions(translation)[1:3] == (
        "meta hour 0-3600 meta day { 0, 1 } goto INPUT-rule2",
        "meta hour 82800-86399 meta day { 6, 0 } goto INPUT-rule2",
    )


def test_the_days_of_a_month() -> None:
    """They are a set of seconds, up to the last one that iptables knows of."""
    script = translated("-m time --monthdays 31,1").script
    assert "\t\t\t1738281600-1738454400,\n" in script  # 2025-01-31 and 2025-02-01
    assert "\t\t\t2143065600-2143152000,\n" not in script  # 2037-11-30
    assert script.count("-") - 1 > 100


@attrs.frozen
class Admission:
    """A rule that cannot be said whole, and what is said of it instead."""

    rule: str
    reason: str
    fidelity: Fidelity = Fidelity.LOST
    table: str = "filter"
    chain: str = "INPUT"
    family: Family = Family.IPV4


NEARLY = Fidelity.APPROXIMATED
NODES = "--cluster-local-nodemask 0x00000005 --cluster-total-nodes 5 --cluster-hash-seed 0xfeedcafe"
ADMITTED = [
    Admission("-m conntrack --ctorigdstport 80", "call ids", NEARLY),
    Admission("-m connmark --mark 0x1", "-j CT", NEARLY, "raw", "PREROUTING"),
    Admission("-m conntrack --ctproto 6", "-j CT", NEARLY, "raw", "PREROUTING"),
    Admission("-m conntrack --ctproto 47 --ctorigdstport 80", "call ids"),
    Admission('-m connlabel --label "eth0-in"', "a name of this host"),
    Admission("-m owner --socket-exists", "from a socket", chain="OUTPUT"),
    Admission("-m owner ! --socket-exists ! --uid-owner 0", "from a socket", chain="OUTPUT"),
    Admission("-m owner --gid-owner 0-10 --suppl-groups", "supplementary", chain="OUTPUT"),
    Admission("-m owner --uid-owner nobody-of-this-name", "not known", chain="OUTPUT"),
    Admission("-m cgroup --cgroup 1", "being accepted", NEARLY, "mangle", "POSTROUTING"),
    Admission('-m cgroup --path "/"', "POSTROUTING", Fidelity.LOST, "mangle", "POSTROUTING"),
    Admission("-m addrtype --dst-type LOCAL", "link-local", NEARLY, family=Family.IPV6),
    Admission("-m addrtype --dst-type BROADCAST", "no type", family=Family.IPV6),
    Admission("-m rpfilter", "several routes", NEARLY, *PREROUTING, Family.IPV6),
    Admission("-m socket", "fragments", NEARLY),
    Admission("-m realm --realm nowhere", "no table"),
    Admission("-p tcp -m osf --genre Linux", "several systems", NEARLY),
    Admission("-p tcp -m osf ! --genre Linux", "no notice"),
    Admission("-p tcp -m osf --genre Linux --log 0", "every known system"),
    Admission("-m time --weekdays Mon", "kernel's time zone", NEARLY),
    Admission("-m time --timestart 01:00:00 --timestop 02:00:00 --kerneltz", "kernel has", NEARLY),
    Admission("-m time --monthdays 1", "listed from 2025-01-01 to 2038-01-19", NEARLY),
    Admission("-m policy --dir in --pol ipsec --proto esp", "protocol"),
    Admission("-m policy --dir in --pol ipsec --reqid 1 --proto esp", "does not look", NEARLY),
    Admission("-m policy --dir in --pol ipsec --spi 0x100", "backwards"),
    Admission("-m string --string test --algo bm", "text"),
    Admission('-m bpf --bytecode "1,6 0 0 1"', "program"),
    Admission("-m ipvs --ipvs", "virtual servers"),
    Admission("-m rateest --rateest RE1 --rateest-lt --rateest-pps 5", "rates"),
    Admission("-m physdev --physdev-in lo", "ports"),
    Admission(f"-m cluster {NODES}", "master", NEARLY, "mangle", "FORWARD"),
    Admission(f"-m cluster {NODES}", "first 32 bits", Fidelity.LOST, "mangle", "FORWARD", Family.IPV6),
    Admission(f"-m cluster {NODES}", "PREROUTING"),
    Admission("-m helper --helper ftp*", "the helper"),
]


@pytest.mark.parametrize("case", ADMITTED, ids=lambda case: case.rule)
def test_what_is_admitted(case: Admission) -> None:
    """What nft cannot say, or only nearly, is a loss with the reason."""
    (loss,) = translated(case.rule, case.table, case.chain, case.family).losses
    assert loss.fidelity is case.fidelity
    assert case.reason in loss.reason


TRANSLATED = frozenset(
    {
        *("addrtype", "connbytes", "connlabel", "connmark", "conntrack", "cpu", "helper", "mac", "mark", "socket"),
        *("state", "time"),
    }
)
NOTHING_FOR = frozenset({"bpf", "ipvs", "rateest", "string"})


@needs_corpus
def test_every_line_of_iptables_own_tests() -> None:
    """They are translated, but for those of the matches that nft has nothing for."""
    lost: dict[str, set[bool]] = {}
    for path in extension_files():
        name = path.stem.partition("_")[2]
        for line in extension_file(path) if name in TRANSLATED | NOTHING_FOR else ():
            if isinstance(line, Line) and line.valid and not line.rule.startswith(("#", "-j")):
                losses = translated(line.rule, line.table, line.chains[0], line.families[0]).losses
                lost.setdefault(name, set()).add(any(loss.fidelity is Fidelity.LOST for loss in losses))
    assert lost == {name: {name in NOTHING_FOR} for name in TRANSLATED | NOTHING_FOR}
