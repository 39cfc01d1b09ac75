"""The matches that look into headers of packets, as nft text; what nft cannot see; fragments."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import Line, extension_file, extension_files, needs_corpus

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import Translation, translate

V4, V6 = Family.IPV4, Family.IPV6
TRACKED = "-m conntrack --ctstate NEW"
"""A rule that makes fragments whole."""


def translated(*rules: str, family: Family = V4) -> Translation:
    """What rules without targets become."""
    return translate("*filter\n:INPUT ACCEPT [0:0]\n" + "".join(f"-A INPUT {r}\n" for r in rules) + "COMMIT\n", family)


def conditions(translation: Translation) -> tuple[str, ...]:
    """The rules of the script, in order, without their counters; the helper chains follow the first one."""
    lines = (line.strip() for line in translation.script.splitlines())
    structure = ("#", "type ", "table ", "delete ", "chain ", "}")
    rules = [line for line in lines if line and not line.startswith(structure) and 'comment "policy"' not in line]
    return tuple(rule.removesuffix("counter").strip() for rule in rules if rule != "ct state new counter")


EXACT = {
    "-p tcp -m tcp": ("ip protocol tcp",),
    "-p 6 -m tcp --dport 22": ("tcp dport 22",),
    "-p tcp -m tcp ! --sport 1:1023 --dport 0:65535": ("tcp sport != 1-1023 tcp dport 0-65535",),
    "-p tcp -m tcp ! --sport 1 ! --dport 80": ("tcp sport != 1 tcp dport != 80-80",),
    "-p tcp -m tcp ! --dport 0:65535": (),
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN": ("tcp flags & 0x17 == 0x02",),
    "-p tcp -m tcp ! --tcp-flags ALL NONE": ("tcp flags & 0x3f != 0x00",),
    "-p tcp -m tcp --tcp-flags NONE NONE": ("ip protocol tcp",),
    "-p tcp -m tcp --tcp-flags SYN ACK": (),
    "-p tcp -m tcp ! --tcp-flags SYN ACK": ("ip protocol tcp",),
    "-p tcp -m tcp ! --tcp-option 0": ("ip protocol tcp",),
    "-p udp -m udp ! --dport 53": ("udp dport != 53",),
    "-p udplite -m udp --dport 53": ("udplite dport 53",),
    "-p sctp -m sctp --sport 1:65535 ! --dport 80": ("sctp sport 1-65535 sctp dport != 80",),
    "-p sctp -m sctp --chunk-types any DATA,ECN_CWR": (
        "ip protocol sctp jump INPUT-rule1",
        "sctp chunk data exists goto INPUT-rule2",
        "sctp chunk cwr exists goto INPUT-rule2",
        "",
    ),
    "-p sctp -m sctp --chunk-types all DATA,INIT_ACK": (
        "ip protocol sctp sctp chunk data exists sctp chunk init-ack exists",
    ),
    "-p sctp -m sctp ! --chunk-types all DATA,INIT": (
        "ip protocol sctp jump INPUT-rule1",
        "sctp chunk data exists sctp chunk init exists return",
        "",
    ),
    "-p sctp -m sctp ! --chunk-types any DATA": (
        "ip protocol sctp jump INPUT-rule1",
        "sctp chunk data exists return",
        "",
    ),
    "-p sctp -m sctp --chunk-types any ALL": ("ip protocol sctp",),
    "-p sctp -m sctp ! --chunk-types only ALL": (),
    "-p sctp -m sctp --chunk-types all NONE": ("ip protocol sctp",),
    "-p dccp -m dccp --dccp-types REQUEST,INVALID": ("dccp type { request, 10-15 }",),
    "-p dccp -m dccp ! --dccp-types SYNC --sport 5": ("dccp type != sync dccp sport 5",),
    "-p icmp -m icmp --icmp-type any": ("ip protocol icmp",),
    "-p icmp -m icmp ! --icmp-type any": (),
    "-p icmp -m icmp --icmp-type 255/3": ("ip protocol icmp",),
    "-p icmp -m icmp --icmp-type 3/4": ("icmp type 3 icmp code 4",),
    "-p icmp -m icmp ! --icmp-type 3/4": ("ip protocol icmp icmp type . icmp code != { 3 . 4 }",),
    "-p icmp -m icmp ! --icmp-type 8": ("icmp type != 8",),
    "-p tcp -m multiport --dports 443,80,8000:8100,8050:8200": ("tcp dport { 80, 443, 8000-8200 }",),
    "-p tcp -m multiport ! --sports 80": ("tcp sport != 80",),
    "-p dccp -m multiport --ports 80": (
        "ip protocol dccp jump INPUT-rule1",
        "dccp sport 80 goto INPUT-rule2",
        "dccp dport 80 goto INPUT-rule2",
        "",
    ),
    "-p udp -m multiport ! --ports 53": ("udp sport != 53 udp dport != 53-53",),
    "-p udp -m multiport ! --ports 53,100:200": ("udp sport != { 53, 100-200 } udp dport != { 53, 100-200 }",),
    "-p udp -m multiport --ports 0:65535": ("udp sport 0-65535",),
    "-p udp -m multiport ! --ports 0:65535": (),
    "-p udp -m multiport ! --sports 53 -m multiport ! --dports 53": ("udp sport != 53 udp dport != 53-53",),
    "-m length --length 40": ("meta length 40",),
    "-m length ! --length 0:65535": ("meta length != 0-65535",),
    "-m dscp ! --dscp 0x2e": ("ip dscp != 0x2e",),
    "-m tos --tos 0x10/0x3f": ("@nh,8,8 & 0x3f == 0x10",),
    "-m tos ! --tos 0x10/0xff": ("@nh,8,8 != 0x10",),
    "-m tos --tos 0x10/0x08": (),
    "-p tcp -m ecn --ecn-tcp-ece ! --ecn-tcp-cwr --ecn-ip-ect 2": (
        "tcp flags & 0x40 == 0x40 tcp flags & 0x80 != 0x80 ip ecn 2",
    ),
    "-m ttl --ttl-lt 64": ("ip ttl 0-63",),
    "-m ttl --ttl-gt 255": (),
    "! -p tcp -m ttl ! --ttl-eq 64": ("ip protocol != tcp ip ttl != 64-64",),
    "-p esp -m esp": ("esp spi 0-4294967295",),
    "-p esp -m esp ! --espspi 0:32": ("esp spi != 0-32",),
    "-p ah -m ah": ("ah spi 0-4294967295",),
    "-p ah -m ah --ahspi 5": ("ah spi 5",),
    "-p ipcomp -m ipcomp --ipcompspi 18 --compres": ("comp cpi 18",),
    "-p ipcomp -m ipcomp ! --ipcompspi 65536:70000": ("comp cpi 0-65535",),
    "-p tcp -m tcpmss --mss 500:1460": ("tcp option maxseg length 4 tcp option maxseg size 500-1460",),
    "-p tcp -m tcpmss ! --mss 1460": (
        "ip protocol tcp jump INPUT-rule1",
        "tcp option maxseg length 4 tcp option maxseg size 1460 return",
        "",
    ),
    "-m iprange --src-range 10.0.0.1-10.0.0.9 ! --dst-range 10.0.0.1-10.0.0.1": (
        "ip saddr 10.0.0.1-10.0.0.9 ip daddr != 10.0.0.1",
    ),
    "-m iprange ! --src-range 0.0.0.0-255.255.255.255": (),
    '-m u32 --u32 "0x6&0xff=0x1,0x11&&0x4&0x1fff=0x0"': (
        "@nh,48,32 & 0xff == { 0x1, 0x11 } @nh,32,32 & 0x1fff == 0x0",
    ),
    '-m u32 ! --u32 "0x6&0xff=0x1,0x11&&0x4&0x1fff=0x0"': (
        "jump INPUT-rule1",
        "@nh,48,32 & 0xff == { 0x1, 0x11 } @nh,32,32 & 0x1fff == 0x0 return",
        "",
    ),
    '-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x10=0x35:0x50"': ("@th,0,32 & 0xffff0000 == 0x350000-0x500000",),
    '-p tcp -m u32 --u32 "0x0>>0x16&0x3c@0xc>>0x1a&0x3c@0x0=0x47455420"': ("ip protocol tcp @ih,0,32 0x47455420",),
    '-m u32 --u32 "0x0<<0x4>>0x1c=0x5"': ("@nh,0,32 & 0xf000000 == 0x5000000",),
    '-m u32 --u32 "0x0&0x0=0x1"': (),
}

EXACT_V6 = {
    "-p ah": (),
    "! -p ah": ("",),
    "-m length --length 0:1280": ("meta length 0-1280",),
    "-m dscp --dscp 0x2e": ("ip6 dscp 0x2e",),
    "-m tos ! --tos 0x10/0xff": ("@nh,0,16 & 0x0ff0 != 0x0100",),
    "-m hl --hl-gt 42": ("ip6 hoplimit 43-255",),
    "-m ah": ("ah spi 0-4294967295",),
    "-m ah ! --ahspi 5 --ahlen 24 --ahres": ("ah spi != 5 ah hdrlength 4 ah reserved 0",),
    "-m ah --ahlen 25": (),
    "-m ah ! --ahlen 0": ("ah spi 0-4294967295",),
    "-m frag": ("exthdr frag exists",),
    "-m frag ! --fragid 5 --fraglen 42 --fragres --fragfirst --fragmore": (
        "frag id != 5 frag reserved 0 frag reserved2 0 frag frag-off 0 frag more-fragments 1",
    ),
    "-m frag --fragid 1:42 --fraglast": ("frag id 1-42 frag more-fragments 0",),
    "-m hbh": ("exthdr hbh exists",),
    "-m hbh ! --hbh-len 16": ("hbh hdrlength != 1",),
    "-m hbh ! --hbh-len 42": ("hbh hdrlength 0-255",),
    "-m dst --dst-len 8": ("dst hdrlength 0",),
    "-m dst --dst-len 0": (),
    "-m rt": ("exthdr rt exists",),
    "-m rt ! --rt-type 1 --rt-segsleft 256:300": (),
    "-m rt --rt-type 0 ! --rt-segsleft 1:23 --rt-len 24 --rt-0-res": (
        "rt type 0 rt seg-left != 1-23 rt hdrlength 2 srh last-entry 0 srh flags 0 srh tag 0",
    ),
    "-m rt --rt-type 0 --rt-0-addrs 2001:db8::7,2001:db8::8": (
        "rt type 0 rt hdrlength 4-5 rt0 addr[1] 2001:db8::7 rt0 addr[2] 2001:db8::8",
    ),
    "-m srh --srh-next-hdr 17 --srh-segs-left-eq 1": ("rt type 4 srh last-entry 1-255 rt nexthdr 17 rt seg-left 1",),
    "-m srh ! --srh-hdr-len-gt 4 --srh-last-entry-eq 2": (
        "rt type 4 rt seg-left 0-2 rt hdrlength != 5-255 srh last-entry 2",
    ),
    "-m ipv6header --header hop-by-hop --soft": ("exthdr hbh exists",),
    "-m ipv6header ! --header ah,frag --soft": ("jump INPUT-rule1", "meta l4proto 51 return", "exthdr frag missing"),
    "-m ipv6header --header hop-by-hop": (),
    "-m ipv6header --header hop-by-hop,prot": (
        "exthdr hbh exists exthdr rt missing exthdr frag missing exthdr dst missing "
        "meta l4proto != { 0, 43, 44, 50, 51, 59, 60 }",
    ),
    "-m ipv6header ! --header ipv6-nonxt": (
        "jump INPUT-rule1",
        "exthdr hbh missing exthdr rt missing exthdr frag missing exthdr dst missing meta l4proto 59 return",
        "",
    ),
    "-m iprange --src-range ::1-::ffff": ("ip6 saddr ::1-::ffff",),
    '-m u32 --u32 "0x28>>0x10=0x35"': ("@nh,320,32 & 0xffff0000 == 0x350000",),
}

LOST = {
    "-p sctp -m sctp --chunk-types any I_DATA": "no name for chunks of the type I_DATA",
    "-p sctp -m sctp --chunk-types all ALL": "256 types",
    "-p sctp -m sctp --chunk-types only DATA:B": "together with `only`",
    "-p dccp -m dccp --dccp-option 255": "options of DCCP",
    '-m u32 --u32 "0x0>>0x14@0x5=0x1"': "cannot jump",
    '-m u32 --u32 "0x0>>0x16&0x3c@0xc>>0x1a&0x3c@0x0=0x1"': "cannot jump",
    '-m u32 --u32 "0x100=0x1"': "no further than 255 bytes",
}
LOST_V6 = {
    "-p tcp -m ah": "the protocol behind",
    "-p tcp -m ipv6header --header ah --soft": "the protocol behind",
    "-m hbh --hbh-opts 5,1": "an option of any length",
    "-m hbh --hbh-opts 5:212,6": "no further than 255 bytes",
    "-m dst --dst-opts 1:4": "single destination options",
    "-m rt --rt-type 0 --rt-0-addrs ::1 --rt-0-not-strict": "at any place",
    "-m rt --rt-type 0 --rt-0-addrs ::1,::2,::3": "the first 2 addresses",
    "-m srh --srh-psid a::/64": "another field",
    "-m srh ! --srh-nsid a::/64": "another field",
    "-m eui64": "compare two fields",
    '-m u32 --u32 "0x0>>0x16&0x3c@0x0=0x1"': "cannot jump",
}

ADMITTED = {
    "-p tcp -m tcp --tcp-option 8": ("tcp option 8 exists", "malformed option", V4),
    "-p tcp -m tcp ! --tcp-option 8": ("tcp option 8 missing", "malformed option", V4),
    "-p tcp -m tcp --tcp-option 1": ("tcp option 1 exists", "in the last byte", V4),
    "-p sctp -m sctp --chunk-types all DATA:bE,INIT": (
        "sctp chunk data flags & 0x3 == 0x1 sctp chunk init exists", "only the first one's flags", V4,
    ),
    "-p sctp -m sctp --chunk-types only DATA,I_DATA": ("@th,96,8 { 0, 64 }", "no name in nft", V4),
    "-p mobility-header -m mh": ("mh nexthdr 59 mh type 0-255", "a payload follows", V6),
    "-p mobility-header -m mh ! --mh-type 4:123": ("mh nexthdr 59 mh type != 4-123", "a payload follows", V6),
    "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/0": (
        "meta l4proto icmpv6 icmpv6 type . icmpv6 code != { 1 . 0 }", "nft that header only", V6,
    ),
    "! -p tcp": ("meta l4proto != tcp", "nft that header only", V6),
    "-m hbh --hbh-opts 5:2,0,31:9": (
        "ip6 nexthdr 0 hbh hdrlength 1-255 @nh,336,8 5 @nh,344,8 2 @nh,368,8 0 @nh,376,8 31 @nh,384,8 9",
        "not the first one", V6,
    ),
    "-m ipv6header --header ah,prot": ("meta l4proto 51 ah nexthdr != { 0, ", "behind it is not seen", V6),
    "-m ipv6header --header esp --soft": ("meta l4proto 51 ah nexthdr 50-50", "behind it is not seen", V6),
}  # fmt: skip


@pytest.mark.parametrize("rule", EXACT)
def test_exact(rule: str) -> None:
    found = translated(rule, TRACKED)
    assert conditions(found) == EXACT[rule]
    assert found.exact


@pytest.mark.parametrize("rule", EXACT_V6)
def test_exact_with_ipv6(rule: str) -> None:
    found = translated(rule, TRACKED, family=V6)
    assert conditions(found) == EXACT_V6[rule]
    assert found.exact


@pytest.mark.parametrize(("rule", "family"), [*((rule, V4) for rule in LOST), *((rule, V6) for rule in LOST_V6)])
def test_lost(rule: str, family: Family) -> None:
    found = translated(rule, TRACKED, family=family)
    (loss,) = found.losses
    assert loss.fidelity is Fidelity.LOST
    assert (LOST if family is V4 else LOST_V6)[rule] in loss.reason
    assert conditions(found) == ()


@pytest.mark.parametrize("rule", ADMITTED)
def test_admitted(rule: str) -> None:
    text, reason, family = ADMITTED[rule]
    found = translated(rule, TRACKED, family=family)
    assert {loss.fidelity for loss in found.losses} == {Fidelity.APPROXIMATED}
    assert any(reason in loss.reason for loss in found.losses)
    assert text in found.script


def test_segments_left_are_compared_with_the_last_entry_by_a_set() -> None:
    found = translated("-m srh", "-m srh --srh-tag 5", family=V6)
    assert found.exact
    assert found.script.count("set segments-left {") == 1
    assert "6 . 6-255, 7 . 7-255," in found.script
    assert conditions(found)[-2] == "rt type 4 rt seg-left . srh last-entry @segments-left"
    assert conditions(found)[-1].startswith("rt type 4 rt seg-left . srh last-entry @segments-left srh tag ")


BY_NAME = {
    "-p tcp -m tcp --dport ssh": "tcp dport 22",
    "-p icmp -m icmp --icmp-type echo-request": "icmp type 8",
    "-m tos --tos Minimize-Delay": "@nh,8,8 & 0x3f == 0x10",
    "-p tcp -m multiport --dports http,https": "tcp dport { 80, 443 }",
}


@pytest.mark.parametrize("rule", BY_NAME)
def test_names_written_by_hand(rule: str) -> None:
    found = translated(rule, TRACKED)
    assert conditions(found) == (BY_NAME[rule],)
    assert found.exact


FIRST = "ip frag-off & 0x1fff == 0"
IN_FIRST = {
    "-p udp -m udp --dport 53": f"{FIRST} udp dport 53",
    "-p tcp -m tcp": f"ip protocol tcp {FIRST}",
    "-p tcp -m multiport ! --dports 1,2": f"{FIRST} tcp dport != {{ 1, 2 }}",
    "-p icmp -m icmp --icmp-type any": f"ip protocol icmp {FIRST}",
    "-p esp -m esp --espspi 5": f"{FIRST} esp spi 5",
    "-p ah -m ah --ahspi 5": f"{FIRST} ah spi 5",
    "-p ipcomp -m ipcomp --ipcompspi 5": f"{FIRST} comp cpi 5",
    "-p sctp -m sctp --dport 5": f"{FIRST} sctp dport 5",
    "-p dccp -m dccp --dport 5": f"{FIRST} dccp dport 5",
}


@pytest.mark.parametrize("rule", IN_FIRST)
def test_first_fragments_only_without_conntrack(rule: str) -> None:
    assert conditions(translated(rule)) == (IN_FIRST[rule],)


def test_first_fragments_only_without_conntrack_with_ipv6() -> None:
    found = translated("-p udp -m udp --dport 53", family=V6)
    assert conditions(found) == ("meta l4proto udp jump INPUT-rule1", "frag frag-off != 0 return", "udp dport 53")
    assert sum("begin with an extension header" in loss.reason for loss in found.losses) == 1


def test_one_look_at_the_fragment_is_enough() -> None:
    found = translated("-p tcp -m tcp --sport 5 -m multiport --dports 1,2")
    assert conditions(found) == (f"{FIRST} tcp sport 5 tcp dport {{ 1, 2 }}",)
    found = translated("-p tcp -m tcp --sport 5 -m multiport --dports 1,2", family=V6)
    assert conditions(found)[1:] == ("frag frag-off != 0 return", "tcp sport 5 tcp dport { 1, 2 }")


def test_fragments_that_iptables_drops_are_told_once() -> None:
    found = translated("-p tcp -m tcp --dport 22", "-p tcp -m tcp --dport 23", "-p udp -m udp --dport 5")
    (loss,) = found.losses
    assert (loss.line, loss.part, loss.fidelity) == (3, "fragments", Fidelity.APPROXIMATED)
    assert "begin 8 bytes behind" in loss.reason


def test_what_holds_in_general_is_not_swallowed_with_a_lost_rule() -> None:
    found = translated("-p tcp -m tcp --dport 22 -m eui64x", "-p tcp -m tcp --dport 22")
    assert [(loss.line, loss.part) for loss in found.losses] == [(3, "rule"), (4, "fragments")]


NEEDING = ["-m state --state NEW", "-j CT --notrack", "-j CONNMARK --set-xmark 0x1/0xffffffff"]


@pytest.mark.parametrize("other", NEEDING)
def test_a_rule_of_another_table_that_needs_conntrack_makes_packets_whole(other: str) -> None:
    text = f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {other}\nCOMMIT\n"
    text += "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 22\nCOMMIT\n"
    assert FIRST not in translate(text).script


_MATCHES = frozenset(
    """
    ah dccp dscp dst ecn esp eui64 frag hbh hl icmp icmp6 ipcomp iprange ipv6header length mh multiport rt sctp srh tcp
    tcpmss tos ttl u32 udp
    """.split()  # noqa: SIM905
)
# Rules of the corpus that are lost, by what is in them.
_LOST_IN_CORPUS = ("--dst-opts", "--hbh-opts", "--dccp-option", "-m eui64", "--srh-psid", "_DATA", "RE_CONFIG", "PAD",
                   "I_FORWARD_TSN")  # fmt: skip


@needs_corpus
@pytest.mark.parametrize(
    "path", [path for path in extension_files() if path.stem.partition("_")[2] in _MATCHES], ids=lambda path: path.stem
)
def test_corpus(path: Path) -> None:
    tried = 0
    for line in extension_file(path):
        if isinstance(line, Line) and line.valid:
            for family in line.families:
                text = f"*{line.table}\n:{line.chains[0]} ACCEPT [0:0]\n-A {line.chains[0]} {line.rule}\nCOMMIT\n"
                lost = [loss for loss in translate(text, family).losses if loss.fidelity is Fidelity.LOST]
                assert bool(lost) == any(part in line.rule for part in _LOST_IN_CORPUS), f"{line}: {lost}"
                tried += 1
    assert tried
