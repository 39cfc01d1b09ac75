"""The matches that look into headers of packets do in nft what they do in iptables, packet by packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import translate
from nfkeep.migrate.source import read_source
from nfkeep.migrate.verify import Comparison, Difference, Harness, Packet
from nfkeep.migrate.verify.derive import packets_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
TRACKED = "-A FORWARD -m conntrack --ctstate INVALID -j ACCEPT\n"
PACKETS = 60

RULES = """
-p tcp -m tcp
-p tcp -m tcp ! --sport 1 ! --dport 80
-p tcp -m tcp --sport 1024:65535
-p tcp -m tcp ! --dport 1:80
-p tcp -m tcp ! --sport 0:65535
-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN
-p tcp -m tcp ! --tcp-flags ALL NONE
-p tcp -m tcp --tcp-option 8
-p tcp -m tcp ! --tcp-option 8
-p tcp -m ecn --ecn-tcp-ece ! --ecn-tcp-cwr
-p tcp -m ecn ! --ecn-tcp-ece --ecn-ip-ect 2
-m ecn ! --ecn-ip-ect 0
-p udp -m udp ! --dport 53
-p udp -m udp ! --sport 53 ! --dport 53
-p tcp -m multiport --ports 53,1024:2000
-p tcp -m multiport ! --ports 53,1024:2000
-p tcp -m multiport ! --ports 80
-p udp -m multiport --dports 53,80:90,85:100
-p udplite -m multiport ! --ports 53
-p sctp -m multiport --sports 53,80
-p dccp -m multiport ! --dports 53,80
-p sctp -m sctp ! --sport 5 ! --dport 80
-p sctp -m sctp --chunk-types any DATA,INIT
-p sctp -m sctp ! --chunk-types any DATA,INIT
-p sctp -m sctp --chunk-types all DATA,SACK
-p sctp -m sctp ! --chunk-types all DATA,SACK
-p sctp -m sctp --chunk-types any ALL
-p dccp -m dccp ! --sport 5 --dport 80
-p dccp -m dccp --dccp-types REQUEST,INVALID
-p dccp -m dccp ! --dccp-types REQUEST,SYNC
-m length --length 60:80
-m length ! --length 60:80
-m dscp --dscp 0x2e
-m dscp ! --dscp 0x2e
-m tos --tos 0x10/0x3f
-m tos ! --tos 0x08/0xff
-p esp -m esp ! --espspi 5
-p esp -m esp --espspi 0:32
-p ipcomp -m ipcomp --ipcompspi 18
""".strip().splitlines()

ONLY_V4 = """
-p icmp -m icmp --icmp-type any
-p icmp -m icmp --icmp-type 3/1
-p icmp -m icmp ! --icmp-type 3/1
-p icmp -m icmp ! --icmp-type 8
-m ttl --ttl-lt 64
! -p tcp -m ttl ! --ttl-eq 64
-p ah -m ah ! --ahspi 5
-m iprange --src-range 10.0.0.1-10.0.0.10 ! --dst-range 10.0.0.2-10.0.0.5
-m u32 --u32 "6&0xFF=6,17&&4&0x1FFF=0"
-m u32 ! --u32 "6&0xFF=6,17&&4&0x1FFF=0"
-m u32 --u32 "0>>22&0x3C@0>>16=20000:20020"
-m u32 ! --u32 "60=0:0xffffffff"
""".strip().splitlines()

# What iptables does with later fragments, the translation says that it does not.
ONLY_WHOLE = """
-p tcp -m tcpmss --mss 500:1460
-p tcp -m tcpmss ! --mss 500:1460
-p tcp -m u32 --u32 "0>>22&0x3C@12>>26&0x3C@0=0x6e666b65"
""".strip().splitlines()

ONLY_V6 = """
-p ipv6-icmp -m icmp6 --icmpv6-type 1/0
-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/0
-m hl ! --hl-eq 42
-m hl --hl-gt 42
-m iprange ! --src-range 2001:db8::1-2001:db8::10
-m ah
-m ah ! --ahspi 5 --ahres
-m ah --ahlen 24
-m frag --fragid 1:42
-m frag ! --fragid 5 --fragmore
-m frag --fragres --fragfirst
-m frag --fraglast --fraglen 42
-m hbh --hbh-len 8
-m hbh ! --hbh-len 42
-m hbh --hbh-opts 1:4
-m hbh --hbh-opts 5:2,1:0
-m dst ! --dst-len 8
-m rt --rt-type 0 ! --rt-segsleft 1:23
-m rt ! --rt-type 1 --rt-len 24
-m rt --rt-type 0 --rt-0-res
-m rt --rt-type 0 --rt-0-addrs 2001:db8::7
-m srh
-m srh ! --srh-next-hdr 17
-m srh --srh-hdr-len-gt 2
-m srh ! --srh-segs-left-eq 1
-m srh --srh-segs-left-lt 1 --srh-last-entry-eq 1
-m srh ! --srh-tag 4660
-m srh ! --srh-lsid c::/60
-m ipv6header --header hop-by-hop --soft
-m ipv6header ! --header hop-by-hop --soft
-m ipv6header --header prot
-m ipv6header ! --header prot
-m ipv6header --header hop-by-hop,prot
-m ipv6header ! --header route,dst --soft
-m ipv6header --header ah --soft
-m ipv6header --header none --soft
""".strip().splitlines()


@pytest.fixture(scope="module", params=[V4, V6], ids=["IPv4", "IPv6"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """A pair of hosts for all rules of a family."""
    with Harness(request.param) as made:
        yield made


def compared(harness: Harness, rule: str, packets: int | list[Packet] = PACKETS, before: str = "") -> Comparison:
    """What the rule does where packets are forwarded and where they are delivered."""
    chains = ":INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text = f"*filter\n{chains}{before}-A FORWARD {rule} -j DROP\n-A INPUT {rule} -j DROP\nCOMMIT\n"
    translation = translate(text, harness.family)
    assert not [loss for loss in translation.losses if loss.fidelity is Fidelity.LOST]
    if before and isinstance(packets, int):
        derived = packets_for(read_source(text, harness.family), packets, 0)
        packets = [each for each in derived if not (each.fragment or each.more or each.atomic)]
    return harness.compare(text, translation.script, packets)


def differing(harness: Harness, rules: list[str], before: str = "") -> dict[str, tuple[Difference, ...]]:
    """The rules that are not equal, also not on new hosts: in old ones fragments wait, each by its own clock."""
    found: dict[str, tuple[Difference, ...]] = {}
    for rule in rules:
        if compared(harness, rule, before=before).differences:
            with Harness(harness.family) as new:
                if differences := compared(new, rule, before=before).differences:
                    found[rule] = differences
    return found


def test_equal_with_whole_packets(harness: Harness) -> None:
    rules = ONLY_V4 + ONLY_WHOLE if harness.family is V4 else ONLY_V6
    assert not differing(harness, RULES + rules, TRACKED)


def test_equal_with_fragments(harness: Harness) -> None:
    assert not differing(harness, RULES + (ONLY_V4 if harness.family is V4 else ONLY_V6))


@pytest.mark.parametrize("rule", ["-m mh", "-m mh --mh-type 1", "-m mh ! --mh-type 4", "-m mh --mh-type 4:123"])
def test_messages_of_mobile_ip(rule: str) -> None:
    messages = [
        Packet(
            V6, "in0", "out0", "2001:db8:a::77", "2001:db8:b::77", protocol=135,
            transport=bytes((59, 1, kind, 0)) + bytes(12),
        )
        for kind in (0, 1, 3, 4, 5, 123, 124)
    ]  # fmt: skip
    with Harness(V6) as harness:
        for before in ("", TRACKED):
            assert not compared(harness, f"-p mobility-header {rule}", messages, before).differences


MALFORMED = {
    "cut off by the end": bytes.fromhex("080a0000"),
    "in the last byte": bytes.fromhex("01010108"),
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("negation", ["", "! "])
def test_malformed_options_are_what_was_admitted(what: str, negation: str) -> None:
    timestamps = bytes.fromhex("0101080a") + bytes(8)
    packets = [
        Packet(V4, "in0", "out0", "192.0.2.77", "203.0.113.77", sport=5, dport=6, tcp_options=options)
        for options in (MALFORMED[what], timestamps)
    ]
    with Harness(V4) as harness:
        found = compared(harness, f"-p tcp -m tcp {negation}--tcp-option 8", packets)
        assert [each.number for each in found.differences] == [0]
