"""Names of iptables as nft can read them: chains, sets and objects, interfaces, quoted text.

nft has no quoted identifiers. A name that is none, or that is one of nft's own words, is mangled so that it can be
told which it was: `x_` and the name, each byte but letters and digits as `_` and two hex digits.
"""

from __future__ import annotations

import functools
import re

from nfkeep.migrate.loss import Lost

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9/_.-]*")
_MANGLED = "x_"
_LONGEST_COMMENT = 128  # octets; NFTNL_UDATA_COMMENT_MAXLEN in nft
_LONGEST_INTERFACE = 15  # IFNAMSIZ - 1
_AT_THE_END = {"+": "*", "*": r"\*"}
_IN_COMMENTS = str.maketrans({'"': "'", **{chr(number): " " for number in (*range(0x20), 0x7F)}})


def identifier(name: str) -> str:
    """The name as nft has it: different names stay different."""
    if _IDENTIFIER.fullmatch(name) and name not in _WORDS and not name.startswith(_MANGLED):
        return name
    octets = name.encode(errors="surrogateescape")
    return _MANGLED + "".join(chr(c) if chr(c).isalnum() and c < 128 else f"_{c:02x}" for c in octets)


def original(name: str) -> str:
    """The name that `identifier` made this of."""
    if not name.startswith(_MANGLED):
        return name
    octets = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name[len(_MANGLED) :].encode())
    return octets.decode(errors="surrogateescape")


def quoted(text: str, what: str) -> str:
    """Text in nft's quotes, which know no escapes. Raises Lost for text that cannot stand in them."""
    if '"' in text or "\n" in text:
        raise Lost(f"{what} {text!r} cannot be written in nft", "change it first, in iptables")
    return f'"{text}"'


@functools.lru_cache(maxsize=1024)
def interface(name: str) -> str:
    r"""An interface's name in quotes; a `+` at the end stands for any ending. Raises Lost for what can be none.

    nft reads a `*` at the end as any ending and `\*` there as that character, and nothing else as special
    (expr_evaluate_string() in src/evaluate.c).
    """
    if not 0 < len(name.encode(errors="surrogateescape")) <= _LONGEST_INTERFACE:
        raise Lost(f"{name!r} can be no interface")
    text = name[:-1] + _AT_THE_END.get(name[-1], name[-1])
    unwritable = name == "+" or name.endswith(("\\+", "\\*"))
    if unwritable or len(text.encode(errors="surrogateescape")) > _LONGEST_INTERFACE:
        raise Lost(f"the interface {name!r} cannot be written in nft", "rename it first")
    return quoted(text, "the interface")


def comment(text: str) -> str:
    """What of a comment fits into nft's: no quotes, no control characters, not too long."""
    flat = text[:_LONGEST_COMMENT].translate(_IN_COMMENTS)
    while len(flat.encode(errors="surrogateescape")) > _LONGEST_COMMENT:
        flat = flat[:-1]
    return f'comment "{flat}"'


# The words of nft's own (src/scanner.l, up to 1.1.6): any of them as a name is a syntax error somewhere.
_WORDS = frozenset(
    """
    a-rwnd abort accept ackseq add addr ah alert all and arp asconf asconf-ack audit auto-merge avgpkt bridge broute
    burst bypass bytes cfi cgroup cgroupv2 chain chains check checksum chunk class classid code comment comp
    constant continue cookie-ack cookie-echo count counter counters cpi cpu create crit csumcov ct cum-tsn-ack cwr
    daddr data day dccp debug define dei delete describe destroy device devices direction dnat doff dport drop dscp
    dst dup dynamic echo ecn ecne egress element elements emerg eol eq err error erspan esp ether event exists
    expectation expiration expires export exthdr fanout fastopen fib filter flags flow flowlabel flowtable
    flowtables flush forward-tsn frag frag-off fully-random fwd gateway gbp gc-interval ge geneve get goto gre
    gretap group gt handle hbh hdrlength heartbeat heartbeat-ack helper helpers hlen hook hooks hoplimit hour htype
    ibrhwaddr ibriport ibrname ibrpvid ibrvproto icmp icmpv6 icmpx id igmp iif iifgroup iifkind iifname iiftype
    import in inc include index inet info ingress init init-ack init-tag initial-tsn insert interval ip ip6 ipsec
    jhash json jump kbytes l3proto l4proto label last last-entry le left length level limit limits list ll log loose
    lowest-tsn lshift lsrr lt map maps mark masquerade max-delay maxseg mbytes md5sig memory meta meter meters mh
    minute missing mod monitor more-fragments mptcp mrt mss mtu name nat ne netdev never new new-cum-tsn nexthdr
    nexthop nfproto nftrace nh noop nop not notice notrack num num-dup-tsns num-gap-ack-blocks num-inbound-streams
    num-outbound-streams numgen obriport obrname offload offset oif oifgroup oifkind oifname oiftype operation
    opt-type option options or original osf out over packets param-problem path pcp performance persistent pkttype
    plen policy port position ppid prefix priority proto-dst proto-src protocol ptr ptype queue queue-threshold
    quota quotas r ra random rate redefine redirect reject rename replace reply reqid reserved reserved2 reset
    return right route rr rshift rt rt0 rt2 rtclassid rule rules ruleset sack sack-perm sack-permitted sack0 sack1
    sack2 sack3 saddr sctp sdif sdifname secmark secmarks second secpath seed seg-left seqno sequence set sets
    shutdown shutdown-ack shutdown-complete sid size skgid skip skuid snaplen snat socket spi spnum sport srh ssn
    ssrr state status stream subtype symhash synproxy synproxys table tables taddr tag tcp th time timeout timestamp
    to tos tproxy trace transparent tsecr tsn tsval ttl tunnel tunnels type typeof udp udplite undefine until update
    urgptr used value version vlan vm vmap vni vtag vxlan warn week wildcard window with wscale xml xor xt zone
    """.split()  # noqa: SIM905
)
