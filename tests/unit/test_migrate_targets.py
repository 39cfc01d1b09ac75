"""What each target of iptables becomes in nft, and what is said of those that nft does not have."""

from __future__ import annotations

import re

import pytest
from corpus import Line, extension_lines, needs_corpus

from nfkeep import Family
from nfkeep.keep.report import Fidelity
from nfkeep.migrate import Translation, translate

V4, V6 = Family.IPV4, Family.IPV6
CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
TARGETS = frozenset(
    """
    AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT DNAT DNPT DSCP ECN HL HMARK IDLETIMER LED LOG MARK
    MASQUERADE NETMAP NFLOG NFQUEUE NOTRACK REDIRECT REJECT SECMARK SNAT SNPT SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS
    TPROXY TRACE TTL
    """.split()  # noqa: SIM905
)


def translated(table: str, rules: str, family: Family = V4) -> Translation:
    """The translation of rules (`CHAIN …`, on a line each) in a table; chains that it does not have are user chains."""
    lines = rules.splitlines()
    users = dict.fromkeys(line.split()[0] for line in lines if line.split()[0] not in CHAINS[table])
    text = [
        f"*{table}",
        *(f":{chain} ACCEPT [0:0]" for chain in CHAINS[table]),
        *(f":{chain} - [0:0]" for chain in users),
    ]
    return translate("\n".join([*text, *(f"-A {line}" for line in lines), "COMMIT", ""]), family)


def chains(translation: Translation) -> dict[str, list[str]]:
    """The lines of each chain, without those of the policies and the remarks."""
    found = {}
    for name, body in re.findall(r"\tchain (\S+) \{\n(.*?)\t\}", translation.script, re.DOTALL):
        lines = [line.strip() for line in body.splitlines()]
        found[name] = [x for x in lines if x[:4] != "type" and x[:1] != "#" and 'comment "policy"' not in x]
    return found


def the_rule(translation: Translation) -> list[str]:
    """The only rule of the source, and the rules of the chains that were made for it."""
    return [line for lines in chains(translation).values() for line in lines if not line.endswith(TRACKING)]


TRACKING = 'ct state 0 comment "no packet matches: for connections to be tracked"'


@pytest.mark.parametrize(
    ("rule", "added"),
    [
        ("INPUT -p tcp -m state --state NEW -m multiport ! --sports 0:65535 -j DROP", 1),
        ("INPUT -p tcp -m state --state NEW -m multiport ! --sports 1:65535 -j DROP", 0),
        ('INPUT -p tcp -m multiport ! --sports 0:65535 -m comment --comment "ct state" -j DROP', 0),
    ],
)
def test_tracks_connections_where_iptables_does(rule: str, added: int) -> None:
    """Also if the rule that has it do so can never match: fragments are put together, for all rules to see."""
    assert translated("filter", rule).script.count(TRACKING) == added


EXACT = {
    "reject": ("filter", "INPUT -j REJECT", "counter reject with icmp type port-unreachable"),
    "reject with a reset": (
        "filter", "FORWARD -p tcp -j REJECT --reject-with tcp-reset", "ip protocol tcp counter reject with tcp reset",
    ),
    "log": ("filter", "INPUT -j LOG", "counter log"),
    "log all": (
        "filter",
        'INPUT -j LOG --log-prefix "a b: " --log-level 7 --log-tcp-sequence --log-tcp-options --log-ip-options'
        " --log-uid --log-macdecode",
        'counter log prefix "a b: " level debug flags tcp sequence flags tcp options flags ip options flags skuid'
        " flags ether",
    ),
    "log at a level by name": ("filter", "INPUT -j LOG --log-level alert", "counter log level alert"),
    "nflog": ("filter", "INPUT -j NFLOG", "counter log group 0"),
    "nflog all": (
        "filter", 'INPUT -j NFLOG --nflog-prefix "x" --nflog-group 5 --nflog-size 0 --nflog-threshold 9',
        'counter log prefix "x" group 5 snaplen 0 queue-threshold 9',
    ),
    "nflog's range": ("filter", "INPUT -j NFLOG --nflog-group 5 --nflog-range 64", "counter log group 5"),
    "audit": ("filter", "INPUT -j AUDIT --type drop", "counter log level audit"),
    "dnat": ("nat", "PREROUTING -j DNAT --to-destination 192.0.2.1-192.0.2.9 --random --persistent",
             "counter dnat to 192.0.2.1-192.0.2.9 random,persistent"),
    "dnat of ports": (
        "nat", "PREROUTING -p tcp -j DNAT --to-destination 192.0.2.1:80-90",
        "ip protocol tcp counter dnat to 192.0.2.1:80-90",
    ),
    "dnat of ports only": (
        "nat", "PREROUTING -p udp -j DNAT --to-destination :99", "ip protocol udp counter dnat to :99",
    ),
    "dnat to a service": (
        "nat", "PREROUTING -p tcp -j DNAT --to-destination 192.0.2.1:ssh",
        "ip protocol tcp counter dnat to 192.0.2.1:22",
    ),
    "dnat to one port, whatever its base": (
        "nat", "PREROUTING -p tcp -j DNAT --to-destination :9-9/3", "ip protocol tcp counter dnat to :9",
    ),
    "snat": ("nat", "POSTROUTING -j SNAT --to-source 192.0.2.1 --random-fully",
             "counter snat to 192.0.2.1 fully-random"),
    "masquerade": ("nat", "POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-2000 --random",
                   "ip protocol tcp counter masquerade to :1024-2000 random"),
    "redirect": ("nat", "PREROUTING -p tcp -j REDIRECT --to-ports 0", "ip protocol tcp counter redirect to :0"),
    "netmap of destinations": ("nat", "OUTPUT -j NETMAP --to 192.0.2.0/24", "counter dnat ip prefix to 192.0.2.0/24"),
    "netmap of sources": ("nat", "INPUT -j NETMAP --to 192.0.2.7", "counter snat ip prefix to 192.0.2.7/32"),
    "netmap as libxtables reads it": (
        "nat", "INPUT -j NETMAP --to 10.1.2.3/0.0.0.255", "counter snat ip prefix to 10.1.2.3/32",
    ),
    "a mark": ("mangle", "INPUT -j MARK --set-xmark 0x5/0xffffffff", "counter meta mark set 0x5"),
    "bits of a mark": (
        "mangle", "INPUT -j MARK --set-xmark 0x5/0xff", "counter meta mark set meta mark & 0xffffff00 ^ 0x5",
    ),
    "bits or": ("mangle", "INPUT -j MARK --or-mark 0x5", "counter meta mark set meta mark | 0x5"),
    "bits and": ("mangle", "INPUT -j MARK --and-mark 0x5", "counter meta mark set meta mark & 0x5"),
    "bits xor": ("mangle", "INPUT -j MARK --xor-mark 0x5", "counter meta mark set meta mark ^ 0x5"),
    "no bit": ("mangle", "INPUT -j MARK --set-xmark 0x0/0x0", "counter"),
    "a connection's mark": (
        "mangle", "INPUT -j CONNMARK --set-xmark 0x5/0xf --left-shift-mark 3",
        "counter ct mark set (ct mark & 0xfffffff0 ^ 0x5) << 3",
    ),
    "save": ("mangle", "INPUT -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff",
             "counter ct mark set meta mark & 0xff"),
    "restore": ("mangle", "INPUT -j CONNMARK --restore-mark", "counter meta mark set ct mark"),
    "ttl": ("mangle", "INPUT -j TTL --ttl-set 9", "counter ip ttl set 9"),
    "dscp": ("mangle", "INPUT -j DSCP --set-dscp-class EF", "counter ip dscp set 0x2e"),
    "tos": ("mangle", "INPUT -j TOS --set-tos 0x1f", "counter ip dscp set 7 ip ecn set 3"),
    "dscp as tos": ("mangle", "INPUT -j TOS --set-tos 0x1c/0xfc", "counter ip dscp set 7"),
    "ecn of ip": ("mangle", "FORWARD -j ECN --ecn-ip-ect 2", "counter ip ecn set 2"),
    "a class": ("mangle", "FORWARD -j CLASSIFY --set-class 0001:ffff", "counter meta priority set 0x1ffff"),
    "no option": ("mangle", "FORWARD -p tcp -j TCPOPTSTRIP", "ip protocol tcp counter"),
    "tee": ("mangle", "FORWARD -j TEE --gateway 192.0.2.1", "counter dup to 192.0.2.1"),
    "nfqueue": ("filter", "FORWARD -j NFQUEUE", "counter queue to 0"),
    "balance": ("filter", "FORWARD -j NFQUEUE --queue-balance 0:6 --queue-bypass --queue-cpu-fanout",
                "counter queue flags bypass,fanout to 0-6"),
    "notrack": ("raw", "PREROUTING -i e -j NOTRACK", 'iifname "e" counter notrack'),
    "ct notrack": ("raw", "PREROUTING -i e -j CT --notrack", 'iifname "e" counter notrack'),
    "ct nothing": ("raw", "OUTPUT -j CT", "counter"),
    "a zone": ("raw", "OUTPUT -j CT --zone-orig 5", "counter ct state != untracked ct original zone set 5"),
    "synproxy": (
        "filter", "INPUT -p tcp -j SYNPROXY --sack-perm --timestamp --wscale 9 --mss 1460",
        "ip protocol tcp counter synproxy sack-perm timestamp wscale 9 mss 1460",
    ),
}  # fmt: skip
EXACT_V6 = {
    "reject": ("filter", "INPUT -j REJECT", "counter reject with icmpv6 type port-unreachable"),
    "dnat": ("nat", "PREROUTING -j DNAT --to-destination 2001:db8::1-2001:db8::9",
             "counter dnat to 2001:db8::1-2001:db8::9"),
    "dnat of ports": (
        "nat", "PREROUTING -p tcp -j DNAT --to-destination [2001:db8::1-2001:db8::9]:80-90",
        "meta l4proto tcp counter dnat to [2001:db8::1]-[2001:db8::9]:80-90",
    ),
    "netmap": ("nat", "PREROUTING -j NETMAP --to 2001:db8::/64", "counter dnat ip6 prefix to 2001:db8::/64"),
    "hop limit": ("mangle", "INPUT -j HL --hl-set 9", "counter ip6 hoplimit set 9"),
    "tos": ("mangle", "INPUT -j TOS --set-tos 0x12/0x3f", "counter @nh,0,16 set @nh,0,16 & 0xfc0f ^ 0x0120"),
    "tee": ("mangle", "FORWARD -j TEE --gateway 2001:db8::1", "counter dup to 2001:db8::1"),
}  # fmt: skip
SEVERAL = {
    "the same bits of two marks": (
        "mangle", "INPUT -j CONNMARK --save-mark --nfmask 0x3 --ctmask 0x3",
        [
            "counter jump INPUT-rule1",
            "ct state & (invalid|untracked) == 0 ct mark set ct mark & 0xfffffffc",
            "ct state & (invalid|untracked) == 0 meta mark & 0x1 == 0x1 ct mark set ct mark ^ 0x1",
            "ct state & (invalid|untracked) == 0 meta mark & 0x2 == 0x2 ct mark set ct mark ^ 0x2",
        ],
    ),
    "bits of the type of service": (
        "mangle", "INPUT -j TOS --set-tos 0x10/0xf3",
        [
            "counter jump INPUT-rule1",
            *(
                f"ip dscp {{ {', '.join(str(high << 2 | low) for high in range(16))} }}"
                f" ip dscp set {4 | low} ip ecn set 0 return"
                for low in range(4)
            ),
        ],
    ),
    "a proxy that may not be there": (
        "mangle", "PREROUTING -p tcp -j TPROXY --on-port 3128 --on-ip 127.0.0.1 --tproxy-mark 0x1/0xffffffff",
        [
            "ip protocol tcp counter jump PREROUTING-rule1",
            "meta l4proto tcp tproxy to 127.0.0.1:3128 meta mark set 0x1 accept",
            "drop",
        ],
    ),
    "what has a comment": (
        "mangle", 'INPUT -m comment --comment "a b" -j TTL --ttl-dec 255',
        ['counter jump INPUT-rule1 comment "a b"', "ip ttl 0-255 goto INPUT-rule2", "ip ttl 0-255 ip ttl set 0 return"],
    ),
    "ports behind a choice": (
        "nat", "PREROUTING -p tcp -m conntrack ! --ctstate DNAT -j DNAT --to-destination 192.0.2.1:80",
        [
            "ip protocol tcp jump PREROUTING-rule1",
            "ct status & dnat == dnat return",
            "counter meta l4proto tcp dnat to 192.0.2.1:80",
        ],
    ),
}  # fmt: skip
APPROXIMATED = {
    "a quote": (
        "filter", 'INPUT -j LOG --log-prefix "a \\"b\\" $c"', """counter log prefix "a 'b' %c\"""",
        "the prefix becomes",
    ),
    "trace": ("raw", "OUTPUT -j TRACE", "counter meta nftrace set 1", "by netlink"),
    "segments": (
        "mangle", "FORWARD -p tcp -m state --state NEW -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400",
        "ct state new tcp flags & 0x06 == 0x02 counter tcp option maxseg length 4 tcp option maxseg size set 1400",
        "without the option",
    ),
    "ports by their distance": (
        "nat", "PREROUTING -p tcp -m tcp --dport 3:6 -j DNAT --to-destination 192.0.2.1:1-2/3",
        "tcp dport 3-6 counter dnat to 192.0.2.1:tcp dport map { 3 : 1, 4 : 2, 5 : 1, 6 : 2 }", "the next port",
    ),
}  # fmt: skip
LOST = {
    "checksum": ("mangle", "POSTROUTING -j CHECKSUM --checksum-fill", "cannot calculate"),
    "clusterip": ("filter", "INPUT -j CLUSTERIP", "ARP"),
    "hmark": ("mangle", "PREROUTING -j HMARK --hmark-rnd 0x1 --hmark-mod 3", "jhash"),
    "idletimer": ("filter", "INPUT -j IDLETIMER --timeout 5 --label x", "timers"),
    "led": ("filter", "INPUT -j LED --led-trigger-id x", "no lights"),
    "secmark": ("security", "INPUT -j SECMARK --selctx system_u:object_r:x_t:s0", "security module"),
    "connsecmark": ("security", "INPUT -j CONNSECMARK --save", "secmark"),
    "ulog": ("filter", "INPUT -j ULOG --ulog-nlgroup 1", "no ULOG"),
    "an unknown target": ("filter", "INPUT -j TARPIT", "TARPIT"),
    "a copy out of an interface": ("mangle", "FORWARD -j TEE --gateway 192.0.2.1 --oif eth0", "to be there"),
    "any ports by their distance": (
        "nat", "PREROUTING -p tcp -j DNAT --to-destination 192.0.2.1:1-2/3", "distance from a base",
    ),
    "a proxy for ecn": ("filter", "INPUT -p tcp -j SYNPROXY --ecn", "ECN"),
    "a zone by the mark": ("raw", "OUTPUT -j CT --zone mark", "packet's mark"),
    "a policy of timeouts": ("raw", "OUTPUT -p tcp -j CT --timeout x", "only the kernel has"),
    "events of expectations": ("raw", "OUTPUT -j CT --expevents new", "expectations"),
}  # fmt: skip
LOST_V6 = {
    "snpt": ("mangle", "POSTROUTING -j SNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/64", "checksum"),
    "dnpt": ("mangle", "PREROUTING -j DNPT --src-pfx fd00::/64 --dst-pfx 2001:db8::/64", "checksum"),
}


@pytest.mark.parametrize(
    ("family", "table", "rule", "nft"),
    [(V4, *case) for case in EXACT.values()] + [(V6, *case) for case in EXACT_V6.values()],
    ids=[*EXACT, *(f"{name}, IPv6" for name in EXACT_V6)],
)
def test_becomes_one_rule(family: Family, table: str, rule: str, nft: str) -> None:
    """A target becomes this, and nothing is lost; what is said of every protocol test in IPv6 is not the target's."""
    found = translated(table, rule, family)
    assert (the_rule(found), [loss for loss in found.losses if loss.part != "-p"]) == ([nft], [])


@pytest.mark.parametrize(("table", "rule", "nft"), SEVERAL.values(), ids=SEVERAL)
def test_becomes_several_rules(table: str, rule: str, nft: list[str]) -> None:
    """What no single rule can do is done by several in a chain of their own."""
    found = translated(table, rule)
    assert (the_rule(found), found.losses) == (nft, ())


@pytest.mark.parametrize(("table", "rule", "nft", "reason"), APPROXIMATED.values(), ids=APPROXIMATED)
def test_says_what_is_not_quite_the_same(table: str, rule: str, nft: str, reason: str) -> None:
    """Where the translation errs, the error is stated."""
    found = translated(table, rule)
    (loss,) = found.losses
    assert (the_rule(found), loss.fidelity, reason in loss.reason) == ([nft], Fidelity.APPROXIMATED, True), loss.reason


@pytest.mark.parametrize(
    ("family", "table", "rule", "reason"),
    [(V4, *case) for case in LOST.values()] + [(V6, *case) for case in LOST_V6.values()],
    ids=[*LOST, *LOST_V6],
)
def test_says_what_is_lost(family: Family, table: str, rule: str, reason: str) -> None:
    """What nft cannot do is lost, with the reason, and nothing stands in its place."""
    found = translated(table, rule, family)
    (loss,) = found.losses
    assert (the_rule(found), loss.fidelity, reason in loss.reason) == ([], Fidelity.LOST, True), loss.reason


@pytest.mark.parametrize("rest", ["", "-p icmp ", "-p tcp ", "-p udp "])
@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("chain", ["OUTPUT", "PREROUTING", "PREROUTING ! -i eth0", "PREROUTING -i lo"])
def test_says_what_becomes_of_the_kernels_answers(chain: str, rest: str, resets: bool) -> None:
    """To packets that are not tracked: where the rule can meet them at all, and then once."""
    rejects = "\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    rule = f"-A {chain} {rest}-j CT --notrack\n"
    rules = f"*raw\n:{chain.split()[0]} ACCEPT [0:0]\n{rule * 2}COMMIT"
    found = translate(rules + rejects * resets, V4)
    told = [loss.line for loss in found.losses if "answers" in loss.reason]
    assert told == [3] * (rest in ("", "-p icmp ") or (resets and rest == "-p tcp "))


def test_raises_hops_in_branches() -> None:
    """IPv4's time to live is raised by constants: a branch of a few numbers, then the number, and never beyond 255."""
    found = chains(translated("mangle", "INPUT -j TTL --ttl-inc 5"))
    assert found["INPUT-rule1"][:2] == ["ip ttl 0-15 goto INPUT-rule2", "ip ttl 16-31 goto INPUT-rule3"]
    assert found["INPUT-rule2"][3] == "ip ttl 3 ip ttl set 8 return"
    assert [lines[-1] for lines in found.values() if lines][-1] == "ip ttl 250-255 ip ttl set 255 return"


def test_lowers_hops_by_a_map() -> None:
    """IPv6's hop limit is lowered by a map, and never below 0."""
    (line,) = the_rule(translated("mangle", "INPUT -j HL --hl-dec 3", V6))
    assert line.startswith("counter ip6 hoplimit set ip6 hoplimit map { 0-3 : 0, 4 : 1, ")
    assert line.endswith(", 255 : 252 }")


def test_segments_of_packets_that_have_the_option() -> None:
    """The smallest IPv6 segment that `rt mtu` could mean is none: it stands for a route without a limit."""
    (line,) = the_rule(
        translated(
            "mangle", "FORWARD -p tcp -m state --state NEW -m tcp --tcp-flags SYN SYN -j TCPMSS --clamp-mss-to-pmtu", V6
        )
    )
    assert line.endswith("tcp option maxseg length 4 rt mtu != 536 tcp option maxseg size set rt mtu")


def test_takes_away_every_option_of_a_kind() -> None:
    """Options that a packet has only once need one rule each; for others there is a chain that goes on."""
    found = chains(translated("mangle", "FORWARD -p tcp -j TCPOPTSTRIP --strip-options 4,8"))
    assert found["FORWARD-rule1"] == [
        "tcp option 4 exists reset tcp option 4",
        "tcp option 8 exists reset tcp option 8",
        "tcp option 4 exists goto FORWARD-rule2",
        "tcp option 8 exists goto FORWARD-rule3",
    ]
    assert [line.count("reset tcp option 4") for line in found["FORWARD-rule3"]] == [10, 10, 0, 0]


def test_flags_are_compared_whole() -> None:
    """`tcp flags 0x02` would be any packet with that flag."""
    lines = chains(translated("mangle", "FORWARD -p tcp -j ECN --ecn-tcp-ece 1"))["FORWARD-rule1"]
    assert lines[:2] == ["tcp flags & 0x40 == 0x40 return", "tcp flags & 0xff == 0x00 tcp flags set 0x40"]


class TestBehindConntrack:
    """Helpers and events: nft can give them to a connection only behind conntrack."""

    def test_helper(self) -> None:
        """A helper is an object, and is set in a chain of its own by the same conditions."""
        found = translated("raw", "PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp")
        assert found.losses == ()
        assert chains(found)["PREROUTING-tracked1"] == ['tcp dport 21 ct helper set "ftp-tcp"']
        assert "\t\ttype filter hook prerouting priority -199; policy accept;\n" in found.script
        assert '\tct helper ftp-tcp {\n\t\ttype "ftp" protocol tcp;\n\t\tl3proto ip;\n\t}\n' in found.script

    def test_zone_and_helper(self) -> None:
        """The zone is set before conntrack, the helper behind it; both chains of a table have one."""
        rule = "-p udp -m udp --dport 69 -j CT --helper tftp --zone 3"
        found = chains(translated("raw", f"PREROUTING {rule}\nOUTPUT {rule}", V6))
        for chain in ("PREROUTING", "OUTPUT"):
            assert found[chain] == ["udp dport 69 counter ct state != untracked ct zone set 3"]
            assert found[f"{chain}-tracked1"] == ['udp dport 69 ct helper set "tftp-udp"']

    def test_first(self) -> None:
        """What has a helper keeps it: whatever may come later for the packet does not count."""
        rules = "PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nPREROUTING -i eth0 -j NOTRACK"
        assert chains(translated("raw", rules))["PREROUTING"] == [
            "tcp dport 21 counter ct state != untracked ct zone set 0",
            'iifname "eth0" counter notrack',
        ]

    def test_events(self) -> None:
        """Events are chosen by the packet that begins a connection."""
        found = translated("raw", "PREROUTING -p tcp -j CT --ctevents new,destroy,helper")
        assert chains(found)["PREROUTING-tracked1"] == [
            "ip protocol tcp ct state new,related ct direction original ct event set 0x45"
        ]
        assert [loss.fidelity for loss in found.losses] == [Fidelity.APPROXIMATED]

    @pytest.mark.parametrize(
        ("rules", "reason"),
        [
            ("PREROUTING -j X\nX -p tcp -j CT --helper ftp", "by jumps"),
            ("PREROUTING -i lo -j ACCEPT\nPREROUTING -p tcp -j CT --helper ftp", "line 4 may decide"),
            ("PREROUTING -j CT --zone 3\nPREROUTING -p tcp -j CT --helper ftp", "line 4 may decide"),
            ("PREROUTING -p tcp -m state --state INVALID -j CT --helper ftp", "might not be the same"),
            ("PREROUTING -j CT\nPREROUTING -p tcp -j CT --helper ftp", "line 4 may decide"),
            ("PREROUTING -p sctp -j CT --helper ftp", "none that nft can name"),
            ("PREROUTING -p tcp -j CT --helper ftp --timeout x", "only the kernel has"),
            ("PREROUTING -p tcp -j CT --helper ftp --zone mark", "the packet's mark"),
        ],
    )
    def test_not_where_other_packets_get_there(self, rules: str, reason: str) -> None:
        """What might befall other packets than with iptables is lost, and leaves nothing behind."""
        found = translated("raw", rules)
        (loss,) = found.losses
        assert (reason in loss.reason, loss.fidelity) == (True, Fidelity.LOST), loss.reason
        assert "-tracked" not in found.script
        assert "ct helper" not in "".join(line for line in found.script.splitlines() if "LOST" not in line)


class TestNetmap:
    """NETMAP changes destinations or sources, by the chain that packets come from."""

    @pytest.mark.parametrize(("chain", "verb"), [("PREROUTING", "dnat"), ("POSTROUTING", "snat")])
    def test_in_a_user_chain(self, chain: str, verb: str) -> None:
        """Jumps are followed to where they come from."""
        found = translated("nat", f"{chain} -j A\nA -j B\nB -j NETMAP --to 192.0.2.0/24")
        assert chains(found)["B"] == [f"counter {verb} ip prefix to 192.0.2.0/24"]

    def test_from_both_sides(self) -> None:
        """A chain that is come to from both cannot be translated."""
        found = translated("nat", "PREROUTING -j A\nPOSTROUTING -g A\nA -j NETMAP --to 192.0.2.0/24")
        assert [loss.reason[:48] for loss in found.losses] == ["packets come here from POSTROUTING, PREROUTING: "]


LOST_LINES = {
    *("CHECKSUM", "CLUSTERIP", "CONNSECMARK", "DNPT", "HMARK", "IDLETIMER", "LED", "SECMARK", "SNPT"),
    "-j CT --expevents new",
    *(f"-p tcp -j DNAT --to-destination 1.1.1.1:1000-2000/{base}" for base in (1000, 3000, 65535)),
    "-p tcp -j DNAT --to-destination 1.1.1.1:10-20/ftp",
}


def _lines() -> list[Line]:
    return [line for line in extension_lines() if re.split("[_.]", line.file)[1] in TARGETS and line.valid]


@needs_corpus
def test_every_line_of_the_corpus() -> None:
    """Each valid rule that iptables' own tests have for a target is translated, or lost as expected."""
    for line in _lines():
        name = re.split("[_.]", line.file)[1]
        for family in line.families:
            if family is V6 and re.search(r"\d\.\d+\.\d+\.\d", line.rule):
                continue  # an IPv4 address
            for chain in line.chains:
                found = translated(line.table, f"{chain} {line.rule}", family)
                lost = [str(loss) for loss in found.losses if loss.fidelity is Fidelity.LOST]
                assert bool(lost) == bool(LOST_LINES & {name, line.rule}), (str(line), lost)
