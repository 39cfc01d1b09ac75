"""The harness that compares rules of iptables with an nft script finds what is wrong, and nothing in what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from nfkeep import Family
from nfkeep.migrate import translate
from nfkeep.migrate.source import read_source
from nfkeep.migrate.verify import Harness, Packet, Refused, verify
from nfkeep.migrate.verify.derive import packets_for
from nfkeep.migrate.verify.wire import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
HOOKS = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0}
CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": tuple(HOOKS),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def source(rule: str, table: str) -> str:
    """iptables-save text with one rule."""
    chains = "".join(f":{chain} ACCEPT [0:0]\n" for chain in CHAINS[table])
    return f"*{table}\n{chains}-A {rule}\nCOMMIT\n"


def script(rule: str, nft: str, table: str, family: Family) -> str:
    """An nft table with one rule in the chain of the other one."""
    chain = rule.split()[0]
    kind, priority = ("nat", -100 if chain in ("PREROUTING", "OUTPUT") else 100) if table == "nat" else (
        "route" if (table, chain) == ("mangle", "OUTPUT") else "filter", PRIORITIES[table])  # fmt: skip
    name = "ip" if family is V4 else "ip6"
    head = f"type {kind} hook {HOOKS[chain]} priority {priority}; policy accept"
    sets = "set c { type ipv4_addr; flags dynamic; }\n" if "@c" in nft else ""
    return f"table {name} {table} {{\n{sets}chain {chain} {{\n{head}\n{nft}\n}}\n}}\n"


WHOLE = "ip frag-off & 0x1fff == 0"
EQUAL = {
    "nothing at all": (V4, "filter", "INPUT -j ACCEPT", "accept"),
    "an address": (V4, "filter", "INPUT -s 10.1.0.0/16 -j DROP", "ip saddr 10.1.0.0/16 drop"),
    "a range": (
        V4, "filter", "FORWARD -m iprange --dst-range 10.1.0.9-10.1.0.20 -j DROP", "ip daddr 10.1.0.9-10.1.0.20 drop",
    ),
    "a negated port": (V4, "filter", "INPUT -p udp -m udp ! --dport 53 -j DROP", f"{WHOLE} udp dport != 53 drop"),
    "interfaces": (V4, "filter", "FORWARD -i eth+ ! -o eth1 -j DROP", 'iifname "eth*" oifname != "eth1" drop'),
    "a state": (
        V4, "filter", "INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j DROP",
        "ct state established,related drop",
    ),
    "flags": (
        V4, "filter", "INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        f"{WHOLE} tcp flags & (fin|syn|rst|ack) == syn drop",
    ),
    "reject": (V4, "filter", "INPUT -p udp -j REJECT --reject-with icmp-admin-prohibited",
               "ip protocol udp reject with icmp admin-prohibited"),
    "a redirected port": (
        V4, "nat", "PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.9.9:8080",
        "tcp dport 80 dnat to 10.9.9.9:8080",
    ),
    "masquerade": (V4, "nat", "POSTROUTING -o ppp0 -j MASQUERADE", 'oifname "ppp0" masquerade'),
    "a mark": (
        V4, "mangle", "PREROUTING -p udp -j MARK --set-xmark 0x1/0xff",
        "ip protocol udp meta mark set mark and 0xffffff00 or 0x1",
    ),
    "time to live": (V4, "mangle", "POSTROUTING -j TTL --ttl-set 9", "ip ttl set 9"),
    "an owner": (V4, "filter", "OUTPUT -m owner --uid-owner 1000-1999 -j DROP", "meta skuid 1000-1999 drop"),
    "no owner": (V4, "raw", "PREROUTING -p udp -j NOTRACK", "ip protocol udp notrack"),
    "a mark that came": (V4, "mangle", "PREROUTING -m mark --mark 0x1/0xf -j DROP", "meta mark and 0xf == 1 drop"),
    "a connection's mark": (
        V4, "mangle", "PREROUTING -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff", "ct mark set mark and 0xff",
    ),
    "ports by chance": (
        V4, "nat", "POSTROUTING -p udp -j MASQUERADE --to-ports 1024-2000", "ip protocol udp masquerade to :1024-2000",
    ),
    "sources by chance": (V4, "nat", "POSTROUTING -j SNAT --to-source 1.2.3.4 --random", "snat to 1.2.3.4 random"),
    "a zone": (V4, "raw", "PREROUTING -p udp -j CT --zone 5", "ip protocol udp ct zone set 5"),
    "every third": (
        V4, "filter", "INPUT -m statistic --mode nth --every 3 --packet 0 -j DROP", "numgen inc mod 3 0 drop",
    ),
    "a limit for each": (
        V4, "filter", "INPUT -p udp -m hashlimit --hashlimit-upto 3/hour --hashlimit-burst 6 --hashlimit-mode srcip "
        "--hashlimit-name x -j DROP", "ip protocol udp meter x { ip saddr limit rate 3/hour burst 6 packets } drop",
    ),
    "the way back": (V4, "raw", "PREROUTING -m rpfilter --invert -j DROP", "fib saddr . iif oif 0 drop"),
    "a packet log": (
        V4, "filter", "INPUT -p udp -j NFLOG --nflog-group 5 --nflog-prefix x",
        'ip protocol udp log group 5 prefix "x"',
    ),
    "by chance": (
        V4, "filter", "INPUT -m statistic --mode random --probability 0.5 -j DROP", "meta random < 0x80000000 drop",
    ),
    "a class": (
        V4, "mangle", "POSTROUTING -p udp -j CLASSIFY --set-class 1:ffff",
        "ip protocol udp meta priority set 1:ffff",
    ),
    "a limit": (
        V4, "filter", "INPUT -m limit --limit 3/hour --limit-burst 7 -j DROP",
        "limit rate 3/hour burst 7 packets drop",
    ),
    "an address of IPv6": (V6, "filter", "INPUT -s 2001:db8:1::/64 -j DROP", "ip6 saddr 2001:db8:1::/64 drop"),
    "a type of ICMPv6": (V6, "filter", "INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j DROP", "icmpv6 type 135 drop"),
    "a hop limit": (V6, "filter", "INPUT -m hl --hl-lt 255 -j DROP", "ip6 hoplimit < 255 drop"),
}  # fmt: skip

# What iptables-restore-translate 1.8.9 makes of them, but where a script is marked: there it is wrong otherwise.
WRONG = {
    "a lost negation": (V4, "filter", "INPUT -p udp -m udp ! --dport 53 -j DROP", "udp dport 53 drop", ":53 "),
    "a full range": (V4, "filter", "INPUT -p tcp -m tcp --dport 0:65535 -j DROP", "drop", "received"),
    "end points only": (
        V4, "filter", "INPUT -p tcp -m multiport --ports 80:90 -j DROP",
        "tcp sport . tcp dport { 0-65535 . 80, 80 . 0-65535, 0-65535 . 90, 90 . 0-65535 } drop", ":85 ",
    ),
    "one state of two": (
        V4, "filter", "INPUT -m conntrack --ctstate NEW,DNAT -j DROP", "ct status dnat drop", "TCP SYN",
    ),
    "a fragment's ports": (
        V4, "filter", "FORWARD -p udp -m udp --dport 7777 -j DROP", "udp dport 7777 drop", "fragment at 16",
    ),
    "a traffic class": (V6, "filter", "INPUT -m tos --tos 0x04 -j DROP", "ip6 dscp 0x04 drop", "traffic class 0x"),
    "a fragment's number": (
        V6, "filter", "INPUT -m frag --fragid 5:9 -j DROP", "frag id 5 drop", "fragment at",
    ),
    "the wrong side": (V4, "filter", "INPUT -p tcp -m tcp --dport 22 -j DROP", "tcp sport 22 drop", ":22 "),
    "one too many": (
        V4, "filter", "INPUT -p tcp -m tcp --dport 22:25 -j DROP",
        f"{WHOLE} tcp dport 22-26 drop", ":26 ",
    ),
    "an address too few": (
        V4, "filter", "INPUT -s 10.1.2.0/24 -j DROP",
        "ip saddr 10.1.2.0-10.1.2.254 drop", "10.1.2.255",
    ),
    "another answer": (
        V4, "filter", "INPUT -p udp -j REJECT --reject-with icmp-host-prohibited",
        "ip protocol udp reject with icmp port-unreachable", "UDP",
    ),
    "another address": (
        V4, "nat", "PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.9.9:8080",
        "tcp dport 80 dnat to 10.9.9.9:8081", ":80 ",
    ),
    "another mark": (
        V4, "mangle", "PREROUTING -p udp -j MARK --set-xmark 0x1/0xff",
        "ip protocol udp meta mark set 0x2", "UDP",
    ),
    "another connection's mark": (
        V4, "mangle", "PREROUTING -p udp -j CONNMARK --set-xmark 0x1/0xffffffff",
        "ip protocol udp ct mark set 0x3", "UDP",
    ),
    "another class": (
        V4, "mangle", "POSTROUTING -p udp -j CLASSIFY --set-class 1:2",
        "ip protocol udp meta priority set 1:3", "UDP",
    ),
    "another burst": (
        V4, "filter", "INPUT -m limit --limit 3/hour --limit-burst 7 -j DROP",
        "limit rate 3/hour burst 8 packets drop", "",
    ),
    "another mark that came": (
        V4, "mangle", "PREROUTING -m mark --mark 0x1/0xf -j DROP", "meta mark 1 drop", "mark 0xfffffff1",
    ),
    "other bits of a mark": (
        V4, "mangle", "FORWARD -j MARK --set-xmark 0x10/0xff", "meta mark set 0x10", "mark 0xffffffff",
    ),
    "more ports": (
        V4, "nat", "POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-2000", "ip protocol tcp masquerade to :1024-60000",
        "TCP",
    ),
    "a low port kept": (
        V4, "nat", "POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-65535", "ip protocol tcp masquerade", ":80 ",
    ),
    "ports by chance": (
        V4, "nat", "POSTROUTING -j SNAT --to-source 1.2.3.4", "snat to 1.2.3.4 random", "TCP SYN",
    ),
    "another zone": (V4, "raw", "PREROUTING -p udp -j CT --zone 5", "ip protocol udp ct zone set 6", "UDP"),
    "not tracked": (V4, "raw", "PREROUTING -p udp -j CT --notrack", "ip protocol udp", "UDP"),
    "one limit for all": (
        V4, "filter", "INPUT -p udp -m hashlimit --hashlimit-upto 3/hour --hashlimit-burst 6 --hashlimit-mode srcip "
        "--hashlimit-name x -j DROP", "ip protocol udp limit rate 3/hour burst 6 packets drop", "192.0.2.78",
    ),
    "one connection more": (
        V4, "filter", "INPUT -p tcp -m connlimit --connlimit-above 4 --connlimit-mask 32 --connlimit-saddr -j DROP",
        "ip protocol tcp add @c { ip saddr ct count over 5 } drop", "TCP",
    ),
    "another phase": (
        V4, "filter", "INPUT -m statistic --mode nth --every 3 --packet 0 -j DROP", "numgen inc mod 3 1 drop", "",
    ),
    "an option left": (
        V4, "mangle", "POSTROUTING -p tcp -j TCPOPTSTRIP --strip-options mss,sack-permitted", "reset tcp option maxseg",
        "options",
    ),
    "another log": (
        V4, "filter", "INPUT -p udp -j NFLOG --nflog-group 5 --nflog-prefix x",
        'ip protocol udp log group 5 prefix "y"', "UDP",
    ),
    "another hop": (V6, "filter", "INPUT -m hl --hl-lt 255 -j DROP", "ip6 hoplimit <= 255 drop", "hop limit 255"),
    "a flag": (
        V4, "filter", "INPUT -p tcp -m tcp --tcp-flags SYN,ACK SYN -j DROP",
        f"{WHOLE} tcp flags & syn == syn drop", "SYN+ACK",
    ),
    "another user": (V4, "filter", "OUTPUT -m owner --uid-owner 1000 -j DROP", "meta skuid 1001 drop", "uid 100"),
    "nobody's packets": (V4, "filter", "OUTPUT -m owner ! --uid-owner 0 -j DROP", "meta skuid != 0 drop", "in0"),
    "a size": (V4, "mangle", "FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000",
               "tcp flags syn tcp option maxseg size set 1001", "TCP SYN"),
}  # fmt: skip


@pytest.fixture(scope="module")
def harnesses() -> Iterator[dict[Family, Harness]]:
    with Harness(V4) as four, Harness(V6) as six:
        yield {V4: four, V6: six}


@pytest.mark.parametrize(("family", "table", "rule", "nft"), EQUAL.values(), ids=EQUAL)
def test_finds_nothing_where_all_is_right(
    harnesses: dict[Family, Harness], family: Family, table: str, rule: str, nft: str
) -> None:
    """Two rules that mean the same treat every packet alike."""
    found = harnesses[family].compare(source(rule, table), script(rule, nft, table, family), 60)
    assert [str(each) for each in found.differences] == []
    assert found.sent >= 60


@pytest.mark.parametrize(("family", "table", "rule", "nft", "packet"), WRONG.values(), ids=WRONG)
def test_finds_what_is_wrong(
    harnesses: dict[Family, Harness], family: Family, table: str, rule: str, nft: str, packet: str
) -> None:
    """A wrong rule is found out, by a packet that shows why."""
    found = harnesses[family].compare(source(rule, table), script(rule, nft, table, family), 60)
    assert [each for each in found.differences if packet in f"{each.packet} "]


def test_odd_packets(harnesses: dict[Family, Harness]) -> None:
    """What nft cannot do as iptables does is found only on request."""
    texts = (
        source("INPUT -p tcp -m tcp --dport 80 -j DROP", "filter"),
        script("INPUT", "tcp dport 80 drop", "filter", V6),
    )
    assert harnesses[V6].compare(*texts, 60).differences == ()
    found = harnesses[V6].compare(*texts, 60, odd=True).differences
    assert any("AH spi" in str(each.packet) for each in found)
    assert any(each.packet.cut for each in found)


def test_finds_the_same_again(harnesses: dict[Family, Harness]) -> None:
    """What the hosts went through before changes nothing: neither rules nor connections nor interfaces are left."""
    family, table, rule, nft, _ = WRONG["a lost negation"]
    texts = source(rule, table), script(rule, nft, table, family)
    first = harnesses[V4].compare(*texts, 60)
    harnesses[V4].compare(source("POSTROUTING -j MASQUERADE", "nat"), script("POSTROUTING", "drop", "mangle", V4), 60)
    harnesses[V4].compare(source("FORWARD -i dsl7 -j DROP", "mangle"), "", 60)
    assert harnesses[V4].compare(*texts, 60) == first
    assert len(first.differences) > 5


def test_compares_counters(harnesses: dict[Family, Harness]) -> None:
    """Rules that only count, or are never told from the rest, are compared by what they counted."""
    head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text = head + "-A INPUT -p udp\n[7:700] -A INPUT -s 10.0.0.0/8\nCOMMIT\n"

    def compared(network: str) -> list[str]:
        rules = f"ip protocol udp counter\nip saddr {network} counter packets 7 bytes 700"
        found = harnesses[V4].compare(text, script("INPUT", rules, "filter", V4), 60, counters=True)
        assert found.differences == ()
        assert found.unmet == ()
        return [each.rule.text for each in found.counted]

    assert compared("10.0.0.0/8") == []
    assert compared("10.0.0.0/9") == ["[7:700] -A INPUT -s 10.0.0.0/8"]


def test_the_clock_is_no_difference(harnesses: dict[Family, Harness]) -> None:
    """What a quick limit lets pass is another number each time; a network that is another one is still told."""
    head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text = head + "-A INPUT -s 10.0.0.0/8\n-A INPUT -m limit --limit 1000/sec -j ACCEPT\n-A INPUT -p udp\nCOMMIT\n"

    def compared(network: str) -> list[str]:
        limit = "limit rate 1000/second burst 5 packets counter accept"
        rules = f"ip saddr {network} counter\n{limit}\nip protocol udp counter"
        found = harnesses[V4].compare(text, script("INPUT", rules, "filter", V4), 300, counters=True)
        return [each.rule.text for each in found.counted]

    assert compared("10.0.0.0/8") == []
    assert compared("10.0.0.0/9") == ["-A INPUT -s 10.0.0.0/8"]


def test_credit_within_a_tick_is_no_difference(harnesses: dict[Family, Harness]) -> None:
    """Nft lets packets through in a tick in which iptables does no more; what has another reason is still found."""
    head = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text = head + "-A INPUT -p udp -m limit --limit 10000/sec -j ACCEPT\n-A INPUT -s 192.0.2.79 -j ACCEPT\nCOMMIT\n"
    packets = [Packet(V4, "in0", None, f"192.0.2.{last}", "198.51.100.1", UDP, 1000, 7) for last in (78, 79)]
    packets = [*packets[:1] * 200, *packets[1:] * 9, attrs.evolve(packets[1], protocol=TCP)]

    def rules(address: str) -> str:
        limit = "ip protocol udp limit rate 10000/second burst 5 packets accept"
        return script("INPUT", f"{limit}\nip saddr {address} accept\ndrop", "filter", V4)

    assert harnesses[V4].compare(text, rules("192.0.2.79"), packets).differences == ()
    found = harnesses[V4].compare(text, rules("192.0.2.80"), packets).differences
    assert found
    assert {each.packet.source for each in found} == {"192.0.2.79"}
    uncompared = verify(text, rules("192.0.2.79"), V4, packets=60).uncompared
    assert sum("within a tick" in each and "10000/sec" in each for each in uncompared) == 1


def test_seeks_packets_for_every_rule(harnesses: dict[Family, Harness]) -> None:
    """Packets are also found for rules that others stand before; those that none can come to are told."""
    rules = ["-i eth0 -s 10.0.0.0/8 -j RETURN", "! -i eth1 -p tcp -j DROP", "-p tcp -m tcp --dport 22 -j ACCEPT"]
    rules += ["-p tcp -j DROP", "-p tcp -m tcp --dport 80 -j ACCEPT"]
    text = source("\n-A INPUT ".join(["INPUT " + rules[0], *rules[1:]]), "filter")
    found = harnesses[V4].compare(text, "", 300, counters=True)
    assert [text.splitlines()[line - 1] for line in found.unmet] == [f"-A INPUT {rules[4]}"]


def test_names_the_rules(harnesses: dict[Family, Harness]) -> None:
    """With a translator, a mismatch comes with the one rule of many that it is about."""
    rules = [f"-A INPUT -s 10.0.0.{number}/32 -j DROP" for number in range(1, 20)]
    rules.insert(7, "-A INPUT -p tcp -m tcp --dport 22 -j DROP")
    head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"

    def translate(text: str, family: Family) -> str:
        rules = []
        for line in text.splitlines():
            words = line.split()
            if "-s" in words:
                rules.append(f"ip saddr {words[3]} drop")
            elif "--dport" in words:
                rules.append("ip frag-off & 0x1fff == 0 tcp dport 23 drop")
        return script("INPUT", "\n".join(rules), "filter", family)

    text = head + "\n".join(rules) + "\nCOMMIT\n"
    found = verify(text, translate(text, V4), V4, packets=300, translate=translate)
    assert found.sent >= 150
    assert found.mismatches
    assert {mismatch.rules for mismatch in found.mismatches} == {(rules[7],)}
    assert any(":22 " in mismatch.packet and "dropped" in mismatch.legacy for mismatch in found.mismatches)


@pytest.mark.parametrize("used", [0, 52, 300, 520, 5000])
@pytest.mark.parametrize("negated", ["", "! "])
def test_what_is_used_up_of_a_quota_is_no_difference(used: int, negated: str) -> None:
    """Whether the script is a translation or what nft lists of its own: the quota is tried from its beginning."""
    rule = f"-A INPUT -p udp -m udp --dport 7 -m quota {negated}--quota 520 -j DROP"
    head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text = f"{head}[{used // 52}:{used}] {rule}\nCOMMIT\n"
    translated = translate(text, V4).script
    listed = script(
        "INPUT", f"{WHOLE} udp dport 7 quota {'over ' if negated else ''}520 bytes used {used} bytes drop", "filter", V4
    )
    for each in (translated, listed):
        found = verify(text, each, V4, packets=60)
        assert found.mismatches == ()
        assert any("-m quota" in told for told in found.uncompared) == bool(used)
    other = listed.replace("520 bytes", "572 bytes")
    assert verify(text, other, V4, packets=60).mismatches


def test_names_the_rules_that_counted() -> None:
    """Without a translator, a mismatch comes with the rules that counted its packet."""
    rule = "INPUT -p tcp -m tcp --dport 22 -j DROP"
    found = verify(source(rule, "filter"), "", V4, packets=40)
    assert found.mismatches[0].rules == (f"-A {rule}",)
    assert not found.equal


def test_tells_what_the_kernel_refuses() -> None:
    """A rule that cannot be loaded is left out on both sides, and told."""
    text = source("INPUT -m nosuchmatch -j DROP\n-A INPUT -s 10.0.0.1/32 -j DROP", "filter")
    found = verify(text, "", V4, packets=40, translate=lambda text, family: "")
    assert ["nosuchmatch" in each for each in found.uncompared] == [True]
    assert found.mismatches


def test_refuses_a_script_that_does_not_load() -> None:
    """A script that nft does not take is no equal one."""
    with pytest.raises(Refused) as caught:
        verify(source("INPUT -j DROP", "filter"), "table ip x { nonsense }", V4, packets=10)
    assert caught.value.side == "nft"


def test_takes_packets_of_ones_own(harnesses: dict[Family, Harness]) -> None:
    """A test can say itself which packets to send."""
    packet = Packet(V4, "in0", None, "192.0.2.1", "192.0.2.2", dport=80, sport=1234)
    found = harnesses[V4].compare(source("INPUT -p tcp -j DROP", "filter"), "", [packet])
    assert [(each.packet, str(each.legacy)[:7]) for each in found.differences] == [(packet, "dropped")]


@pytest.mark.parametrize("family", [V4, V6], ids=str)
def test_tagged_frames(harnesses: dict[Family, Harness], family: Family) -> None:
    """One with a priority alone meets the rules; one of a VLAN that the host has no interface for does not."""
    ends = ("192.0.2.1", "192.0.2.2") if family is V4 else ("2001:db8:7::1", "2001:db8:7::2")
    packets = [Packet(family, "in0", None, *ends, sport=1, dport=2, tag=tag) for tag in (None, 0x6000, 5)]
    found = harnesses[family].compare(source("INPUT -p tcp -j DROP", "filter"), "", packets)
    assert [each.number for each in found.differences] == [0, 1]
    derived = packets_for(read_source(source("INPUT -p tcp -j DROP", "filter"), family), 60, 1)
    assert {0x6000, 5} <= {each.tag for each in derived}


def test_interfaces_that_cannot_be(harnesses: dict[Family, Harness]) -> None:
    """Names that no interface can have are passed over, wildcards become names that they mean."""
    rules = source("INPUT -i %d -j DROP\n-A INPUT -i +\n-A INPUT -i ppp+ -j DROP", "filter")
    nft = script("INPUT", 'iifname "%d" drop\niifname "ppp*" drop', "filter", V4)
    assert harnesses[V4].compare(rules, nft, 90).differences == ()


def test_a_table_that_is_refused(harnesses: dict[Family, Harness]) -> None:
    """What iptables refuses is told as its fault, and does not spoil what comes after."""
    with pytest.raises(Refused) as caught:
        harnesses[V4].compare(source("INPUT -m nosuchmatch -j DROP", "mangle"), "", 10)
    assert caught.value.side == "iptables"
    rule = "INPUT -s 10.0.0.0/8 -j DROP"
    found = harnesses[V4].compare(source(rule, "filter"), script(rule, "ip saddr 10.0.0.0/8 drop", "filter", V4), 30)
    assert found.differences == ()


@pytest.mark.parametrize("refused", [False, True], ids=["taken", "refused by nft"])
def test_nothing_of_earlier_rules_is_left(refused: bool) -> None:
    """A base chain that the next text does not name has no policy there; iptables-restore would let it be."""
    first = "*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n*mangle\n:OUTPUT DROP [0:0]\nCOMMIT\n"
    second = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -j DROP\nCOMMIT\n"
    with Harness(V4) as harness:
        if refused:
            with pytest.raises(Refused):
                harness.compare(first, "table ip x { this is none }", [])
        else:
            harness.compare(first, "", [])
        compared = harness.compare(second, script("INPUT -p udp -j DROP", "ip protocol udp drop", "filter", V4), 40)
        assert [str(each) for each in compared.differences] == []
