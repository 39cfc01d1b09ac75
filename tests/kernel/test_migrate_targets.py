"""Targets of iptables and their translations: the same packets come out of both, byte for byte, with the same marks."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from nfkeep import Family
from nfkeep.migrate import translate
from nfkeep.migrate.verify import Harness, Packet
from nfkeep.migrate.verify.rulesets import BASE_CHAINS
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
SYN = "-p tcp -m tcp --tcp-flags SYN,RST SYN"


def table_of(name: str, rules: Sequence[str]) -> str:
    """A table as iptables-save text; chains that it does not have are user chains."""
    users = dict.fromkeys(chain for chain in (rule.split()[0] for rule in rules) if chain not in BASE_CHAINS[name])
    heads = [f":{chain} ACCEPT [0:0]" for chain in BASE_CHAINS[name]] + [f":{chain} - [0:0]" for chain in users]
    return "\n".join([f"*{name}", *heads, *(f"-A {rule}" for rule in rules), "COMMIT", ""])


@pytest.fixture(scope="module")
def harnesses() -> Iterator[dict[Family, Harness]]:
    with Harness(V4) as four, Harness(V6) as six:
        yield {V4: four, V6: six}


def packet(family: Family, **fields: object) -> Packet:
    """A TCP SYN that is forwarded, but for what `fields` say."""
    six = family is V6
    ends = ("2001:db8:7::7", "2001:db8:9::9") if six else ("198.51.100.7", "203.0.113.9")
    usual = {"enters": "in0", "leaves": "out0", "source": ends[0], "destination": ends[1], "sport": 4000, "dport": 80}
    return Packet(family, **{**usual, **fields})  # type: ignore[arg-type]


def hops(family: Family) -> list[Packet]:
    """Every number of hops, forwarded and sent by the host itself."""
    return [packet(family, ttl=n) for n in range(1, 256)] + [packet(family, ttl=n, enters=None) for n in (1, 64, 255)]


def classes(family: Family) -> list[Packet]:
    """Every type of service."""
    return [packet(family, tos=n, protocol=17) for n in range(256)]


def flags(family: Family) -> list[Packet]:
    """All flags of TCP."""
    return [packet(family, flags=n, payload=b"x" * (n % 3)) for n in range(256)]


def segments(family: Family) -> list[Packet]:
    """All kinds of segment sizes, alone, among other options, twice; and malformed ones that stay as they are."""
    found = []
    for size in (0, 1, 99, 100, 101, 535, 536, 537, 1219, 1220, 1221, 1400, 1440, 1441, 1459, 1460, 1461, 9000, 65535):
        option = b"\2\4" + size.to_bytes(2, "big")
        found += [packet(family, tcp_options=each) for each in (option, b"\1\1\3\3\7\4\2" + option + b"\1", option * 2)]
        found += [packet(family, tcp_options=option, flags=each) for each in (0x10, 0x12)]
        found.append(packet(family, tcp_options=option, payload=b"", enters=None))
    return found + [
        packet(family, tcp_options=each) for each in (b"\2\2\1\1", b"\2\3\5\1", b"\1\1\1\2", b"\2\6\5\1\1\1\1\1")
    ]


def options(family: Family) -> list[Packet]:
    """Options of TCP: usual ones, unknown ones, many of a kind, such that overrun the header."""
    usual = b"\2\4\5\xb4\4\2\x08\x0a12345678\1\3\3\7"
    lists = [
        *(
            b"",
            b"\2\4\5\xb4",
            usual,
            b"\x08\x0a12345678\1\1",
            b"\5\x0a12345678\1\1",
            b"\x1e\4\1\2",
            b"\xfe\4\1\2\3\3\1\0",
        ),
        *(b"\5\x20\1\1", b"\2\2" * 20, b"\2\1" * 20, b"\2\2\1" * 13, b"\3\3\1" * 13, b"\2\4\1\1\3\5\1\2\4\2\2\x09"),
    ]
    return [packet(family, tcp_options=each, flags=kind) for each in lists for kind in (2, 0x18)]


def marks(family: Family) -> list[Packet]:
    """Packets with marks from the host itself, twice each, for the second finds the connection's mark."""
    numbers = (0, 1, 2, 0xF0, 0xFF, 0x1234, 0x5EADBEEF, 0x7FFFFFFF, 0x0FF0)
    own = [packet(family, enters=None, mark=mark, sport=3000 + n) for n, mark in enumerate(numbers)]
    return [*own, packet(family), packet(family, protocol=17)] * 2


def connections(family: Family) -> list[Packet]:
    """Connections of which no two could become one: the kernel would choose a port by chance."""
    prefix = "2001:db8:9::" if family is V6 else "203.0.113."
    found = [
        packet(family, sport=5000 + n, dport=dport, protocol=protocol, destination=f"{prefix}{n + 1}", identifier=n)
        for n, (protocol, dport) in enumerate((each, port) for each in (6, 17, 132) for port in (7, *range(80, 92)))
    ]
    found += [packet(family, enters=None, leaves="out0", sport=6000 + n, dport=80 + n) for n in range(5)]
    return found + [packet(family, leaves=None, sport=7000 + n, dport=80 + n) for n in range(5)]


CHANGES = ("inc 1", "inc 64", "dec 1", "dec 200")
TYPES = ("0x10/0x3f", "0x12/0x12", "0x00/0xed", "0x12/0x00", "0x54/0xfc", "0x01/0x03", "0x13/0x01", "0xff/0xff")
EXHAUSTIVE = {
    **{f"TTL --ttl-{how}": (V4, f"PREROUTING -j TTL --ttl-{how}", hops) for how in CHANGES},
    **{f"HL --hl-{how}": (V6, f"POSTROUTING -j HL --hl-{how}", hops) for how in CHANGES},
    "TTL --ttl-set": (V4, "POSTROUTING -j TTL --ttl-set 0", hops),
    "HL --hl-set": (V6, "FORWARD -j HL --hl-set 0", hops),
    **{
        f"TOS {value} {family}": (family, f"FORWARD -j TOS --set-tos {value}", classes)
        for value in TYPES
        for family in (V4, V6)
    },
    **{f"DSCP {family}": (family, "PREROUTING -j DSCP --set-dscp 0x2e", classes) for family in (V4, V6)},
    "ECN of TCP": (V4, "FORWARD -p tcp -j ECN --ecn-tcp-remove", flags),
    "ECN of TCP and IP": (V4, "FORWARD -p tcp -j ECN --ecn-tcp-ece 1 --ecn-tcp-cwr 0 --ecn-ip-ect 2", flags),
    "ECN of IP": (V4, "FORWARD -j ECN --ecn-ip-ect 1", classes),
    **{
        f"TCPMSS {value} {family}": (family, f"{chain} {SYN} -j TCPMSS {value}", segments)
        for chain, value in (("FORWARD", "--set-mss 536"), ("POSTROUTING", "--clamp-mss-to-pmtu"))
        for family in (V4, V6)
    },
    **{
        f"TCPOPTSTRIP {each} {family}": (family, f"PREROUTING -p tcp -j TCPOPTSTRIP --strip-options {each}", options)
        for each in ("2", "2,3,4,5,8", "254")
        for family in (V4, V6)
    },
    **{
        f"MARK {value} {family}": (family, f"OUTPUT -j MARK --set-xmark {value}", marks)
        for value in ("0x1/0xff", "0x10/0x0", "0x0/0xff00", "0xff/0xff", "0xf00/0xff", "0x7/0xffffffff")
        for family in (V4, V6)
    },
}  # fmt: skip
CONNMARK = [
    "--set-xmark 0x1/0xff",
    "--set-xmark 0x3/0xff --left-shift-mark 4",
    *(
        f"--{verb}-mark {masks}{shift}"
        for verb in ("save", "restore")
        for masks, shift in (
            ("--nfmask 0xffffffff --ctmask 0xffffffff", ""),
            ("--nfmask 0xff --ctmask 0xff00", ""),
            ("--nfmask 0x12345678 --ctmask 0x87654321", ""),
            ("--nfmask 0xffff --ctmask 0xffff", " --left-shift-mark 9"),
            ("--nfmask 0xffffffff --ctmask 0xffffffff", " --right-shift-mark 4"),
        )
    ),
]
ADDRESSES = {V4: ("192.0.2.5", "192.0.2.9", "10.7.0.0/24"), V6: ("2001:db8:3::5", "2001:db8:3::9", "2001:db8:5::/64")}
NAT = [
    ["PREROUTING -j DNAT --to-destination {first}"],
    ["PREROUTING -j DNAT --to-destination {first}-{last}"],
    ["PREROUTING -j DNAT --to-destination {first}-{last} --persistent"],
    ["PREROUTING -p tcp -j DNAT --to-destination {open}{first}{close}:8080"],
    ["PREROUTING -p udp -j DNAT --to-destination {open}{first}-{last}{close}:99"],
    ["PREROUTING -p sctp -j DNAT --to-destination :99", "OUTPUT -p tcp -j DNAT --to-destination :98"],
    ["PREROUTING -p tcp -m tcp --dport 80:90 -j DNAT --to-destination {open}{first}{close}:100-110/80"],
    ["PREROUTING -p tcp -m tcp --dport 80:90 -j DNAT --to-destination :100-103/83"],
    ["PREROUTING -p tcp -m conntrack ! --ctstate DNAT -j DNAT --to-destination {open}{first}{close}:81"],
    ["POSTROUTING -j SNAT --to-source {first}-{last}"],
    ["POSTROUTING -j SNAT --to-source {first}-{last} --persistent", "INPUT -j SNAT --to-source {first}"],
    ["POSTROUTING -p tcp -j SNAT --to-source {open}{first}{close}:7000"],
    ["POSTROUTING -o out0 -j MASQUERADE"],
    ["POSTROUTING -p udp -j MASQUERADE --to-ports 7000"],
    ["PREROUTING -p tcp -j REDIRECT --to-ports 42", "OUTPUT -p tcp -j REDIRECT"],
    ["PREROUTING -j NETMAP --to {net}", "INPUT -j NETMAP --to {net}"],
    ["OUTPUT -j NETMAP --to {net}", "POSTROUTING -j X", "X -j NETMAP --to {first}"],
]
DERIVED = [
    ("filter", "{chain} -j REJECT", ("INPUT", "FORWARD")),
    ("filter", "{chain} -p tcp -j REJECT --reject-with tcp-reset", ("INPUT", "FORWARD", "OUTPUT")),
    (
        "filter",
        '{chain} -j NFLOG --nflog-group 3 --nflog-prefix "a \\\\ b: " --nflog-size 20',
        ("INPUT", "FORWARD", "OUTPUT"),
    ),
    ("raw", "{chain} -p tcp -j NOTRACK", ("PREROUTING", "OUTPUT")),
    ("mangle", "{chain} -j CLASSIFY --set-class 0001:ffff", ("FORWARD", "POSTROUTING")),
]
REJECTED = {
    V4: "net-unreachable host-unreachable proto-unreachable port-unreachable net-prohibited host-prohibited"
    " admin-prohibited",
    V6: "no-route adm-prohibited addr-unreachable port-unreachable policy-fail reject-route",
}


def differences(harness: Harness, text: str, packets: int | list[Packet]) -> list[str]:
    """What packets show between rules and their translation."""
    found = translate(text, harness.family)
    assert not any("LOST" in line for line in found.script.splitlines())
    return [str(each) for each in harness.compare(text, found.script, packets).differences]


@pytest.mark.parametrize(("family", "rule", "packets"), EXHAUSTIVE.values(), ids=EXHAUSTIVE)
def test_rewrites_alike(harnesses: dict[Family, Harness], family: Family, rule: str, packets: object) -> None:
    """Whatever is in the field, the same comes out, with the right checksums."""
    assert callable(packets)
    assert differences(harnesses[family], table_of("mangle", [rule]), packets(family)) == []


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("what", CONNMARK)
def test_marks_of_connections(harnesses: dict[Family, Harness], family: Family, what: str) -> None:
    """Marks go to and from the connection alike, and stay alone where there is none."""
    rules = ["OUTPUT -j CONNMARK --set-xmark 0x12345678/0xffffffff", f"OUTPUT -j CONNMARK {what}"]
    raw = table_of("raw", ["OUTPUT -p tcp -m tcp --sport 3003:3005 -j NOTRACK"])
    assert differences(harnesses[family], raw + table_of("mangle", rules), marks(family)) == []


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize("rules", NAT, ids=" ".join)
def test_translates_addresses_alike(harnesses: dict[Family, Harness], family: Family, rules: list[str]) -> None:
    """New connections get the same addresses and ports."""
    first, last, net = ADDRESSES[family]
    brackets = ("[", "]") if family is V6 else ("", "")
    text = table_of(
        "nat", [each.format(first=first, last=last, net=net, open=brackets[0], close=brackets[1]) for each in rules]
    )
    assert differences(harnesses[family], text, connections(family)) == []


@pytest.mark.parametrize("family", [V4, V6])
@pytest.mark.parametrize(("table", "rule", "chains"), DERIVED, ids=[each[1] for each in DERIVED])
def test_acts_alike(
    harnesses: dict[Family, Harness], family: Family, table: str, rule: str, chains: tuple[str, ...]
) -> None:
    """Packets of all kinds fare alike in each chain."""
    for chain in chains:
        assert differences(harnesses[family], table_of(table, [rule.format(chain=chain)]), 40) == []


@pytest.mark.parametrize(("family", "names"), REJECTED.items())
def test_rejects_alike(harnesses: dict[Family, Harness], family: Family, names: str) -> None:
    """Each answer is the same."""
    for name in names.split():
        rule = f"FORWARD -j REJECT --reject-with icmp{'6' if family is V6 else ''}-{name}"
        assert differences(harnesses[family], table_of("filter", [rule]), 30) == []


@pytest.mark.parametrize("family", [V4, V6])
def test_copies_alike(harnesses: dict[Family, Harness], family: Family) -> None:
    """TEE sends the same copies."""
    for chain in ("PREROUTING", "FORWARD", "OUTPUT"):
        rule = f"{chain} -j TEE --gateway {ADDRESSES[family][0]}"
        assert differences(harnesses[family], table_of("mangle", [rule]), 30) == []


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """One for iptables and one for nft."""
    both = (Namespace(), Namespace())
    yield both
    for each in both:
        each.close()


def load(hosts: tuple[Namespace, Namespace], text: str) -> None:
    """Load iptables-save text into one, its translation into the other."""
    found = translate(text)
    assert "LOST" not in found.script
    hosts[0].run(["iptables-legacy-restore"], input=text)
    hosts[1].run(["nft", "-f", "-"], input=found.script)


def udp(host: Namespace, *, port: int = 0, transparent: bool = False) -> socket.socket:
    """A UDP socket on the loopback address of a host."""
    with host:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if transparent:
            made.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
        made.bind(("127.0.0.1", port))
    made.settimeout(5)
    return made


def connections_of(host: Namespace) -> list[str]:
    """What conntrack says of UDP connections but for what runs by the clock, in order."""
    lines = host.run(["conntrack", "-L", "-p", "udp"]).stdout.splitlines()
    return sorted(" ".join(word for word in line.split()[3:] if word[:3] != "use") for line in lines)


def test_zones_and_helpers(hosts: tuple[Namespace, Namespace]) -> None:
    """Connections get the same zones and helpers, from the first CT that they meet."""
    rules = [
        "OUTPUT -p udp -m udp --dport 4001 -j NOTRACK",
        "OUTPUT -p udp -m udp --dport 69 -j CT --helper tftp",
        "OUTPUT -p udp -m udp --dport 70 -j CT --helper tftp --zone 7",
        "OUTPUT -p udp -m udp --dport 72 -j CT --helper tftp",
        "OUTPUT -p udp -m udp --dport 72:73 -j NOTRACK",
        "OUTPUT -p udp -m udp --dport 74 -j CT",
        "OUTPUT -p udp -m udp --dport 74 -j CT --notrack",
        "OUTPUT -p udp -m udp --dport 72:75 -j CT --zone 9",
        "OUTPUT -p udp -m udp --dport 4000:4002 -j CT --zone 5",
        "OUTPUT -p udp -m udp --dport 4002 -j CT --zone 6",
        "OUTPUT -p udp -m udp --dport 4003 -j CT --zone-orig 8",
    ]
    load(hosts, table_of("raw", rules))
    for host in hosts:
        with udp(host, port=3999) as sender:
            for port in (*range(69, 77), *range(4000, 4004)):
                sender.sendto(b"x", ("127.0.0.1", port))
    legacy, nft = map(connections_of, hosts)
    assert nft == legacy
    ports = [*range(69, 77), *range(4000, 4004)]
    assert len(legacy) == len(ports) - 2  # 73 and 4001 are untracked, and 74 would be, but for the CT before
    told = {word for line in legacy for word in line.split() if word.startswith(("zone", "helper"))}
    assert told == {"helper=tftp", "zone=5", "zone=7", "zone=9", "zone-orig=8"}


def test_proxies_alike(hosts: tuple[Namespace, Namespace]) -> None:
    """A transparent socket gets what is for another port; without one, the packet ends there."""
    rule = "PREROUTING -p udp -m udp --dport {} -j TPROXY --on-port {} --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1"
    load(hosts, table_of("mangle", [rule.format(53, 3130), rule.format(54, 3131)]))
    for host in hosts:
        with (
            udp(host, port=3130, transparent=True) as proxy,
            udp(host, port=53) as real,
            udp(host, port=54) as other,
            udp(host, port=55) as last,
            udp(host) as sender,
        ):
            for port in (53, 54, 55):
                sender.sendto(str(port).encode(), ("127.0.0.1", port))
            assert (last.recv(9), proxy.recv(9)) == (b"55", b"53")
            for unreached in (real, other):
                unreached.setblocking(False)
                with pytest.raises(BlockingIOError):
                    unreached.recv(9)


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_answers_to_what_is_not_tracked(family: Family) -> None:
    """INVALID with iptables, UNTRACKED with nft, as the translation says; alike where it says nothing."""
    ends = ("192.0.2.77", "203.0.113.77") if family is Family.IPV4 else ("2001:db8:a::77", "2001:db8:b::77")
    packet = Packet(family, "in0", None, *ends, protocol=17, sport=1000, dport=2000)
    rejects = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j REJECT\nCOMMIT\n"
    with Harness(family) as harness:
        for rule, differs in (("-j CT --notrack", True), ("-p udp -j CT --notrack", False)):
            text = table_of("raw", ["PREROUTING -i in0 -j CT --notrack", f"OUTPUT {rule}"]) + rejects
            found = translate(text, family)
            compared = harness.compare(text, found.script, [packet])
            told = [loss.reason for loss in found.losses if "answers" in loss.reason]
            assert (bool(told), [str(each).count("untracked") for each in compared.differences]) == (
                differs,
                [1] * differs,
            )
