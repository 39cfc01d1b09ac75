"""Random rules and rulesets of iptables, as hypothesis strategies: text that iptables-restore takes.

The values are few and close together, so that rules and packets meet often.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from nfkeep import Family

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

_PORTS = (0, 1, 22, 53, 80, 443, 1023, 1024, 65535)
_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
_CONNTRACK_STATES = (*_STATES, "SNAT", "DNAT")
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_ADDRESSES = {
    Family.IPV4: ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.0.2.0/24", "10.0.0.0/255.0.255.0", "224.0.0.0/4"),
    Family.IPV6: ("fd00::/8", "fd00:1::/32", "fd00:1::2/128", "2001:db8::/32", "fd00::/ffff:0:ffff::", "ff00::/8"),
}
_RANGES = {
    Family.IPV4: ("10.1.2.3-10.1.2.9", "10.0.0.0-10.255.255.255"),
    Family.IPV6: ("fd00:1::2-fd00:1::9", "fd00::-fd00:ffff::"),
}
CHAINS = ("first", "second", "third")


def sometimes_not(text: str) -> SearchStrategy[str]:
    """A condition, or its opposite."""
    return st.sampled_from([text, text, f"! {text}"])


@st.composite
def port(draw: DrawFn) -> str:
    """A port or a range of ports."""
    low, high = sorted((draw(st.sampled_from(_PORTS)), draw(st.sampled_from(_PORTS))))
    return str(low) if low == high else f"{low}:{high}"


@st.composite
def _some(draw: DrawFn, names: tuple[str, ...]) -> str:
    chosen = draw(st.sets(st.sampled_from(names), min_size=1, max_size=4))
    return ",".join(name for name in names if name in chosen)


@st.composite
def _ports(draw: DrawFn, protocol: str) -> str:
    """`-m tcp` and the like with one or both ports."""
    options = [draw(sometimes_not(f"{side} {draw(port())}")) for side in ("--sport", "--dport") if draw(st.booleans())]
    return " ".join((f"-m {protocol}", *(options or [f"--dport {draw(port())}"])))


@st.composite
def _flags(draw: DrawFn) -> str:
    mask = draw(_some(_FLAGS))
    wanted = [name for name in mask.split(",") if draw(st.booleans())]
    return f"-m tcp {draw(sometimes_not(f'--tcp-flags {mask} ' + (','.join(wanted) or 'NONE')))}"


@st.composite
def _multiport(draw: DrawFn) -> str:
    ports = draw(st.lists(port(), min_size=1, max_size=4, unique=True))
    option = draw(st.sampled_from(["--sports", "--dports", "--ports"]))
    return f"-m multiport {draw(sometimes_not(f'{option} ' + ','.join(ports)))}"


@st.composite
def _range(draw: DrawFn, most: int, separator: str = ":") -> str:
    low, high = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return str(low) if low == high else f"{low}{separator}{high}"


def _match(name: str, option: str, values: SearchStrategy[str]) -> SearchStrategy[str]:
    """`-m NAME [!] --OPTION VALUE`."""
    return values.flatmap(lambda value: sometimes_not(f"--{option} {value}")).map(f"-m {name} {{}}".format)


def _conditions(family: Family, protocol: str) -> list[SearchStrategy[str]]:
    """Matches that go with a protocol ("" for none)."""
    v6 = family is Family.IPV6
    hops = "-m hl --hl" if v6 else "-m ttl --ttl"
    words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=9)
    found: list[SearchStrategy[str]] = [
        _match("conntrack", "ctstate", _some(_CONNTRACK_STATES)),
        _match("state", "state", _some(_STATES)),
        _match("length", "length", _range(1500)),
        _match("iprange", "src-range", st.sampled_from(_RANGES[family])),
        _match("iprange", "dst-range", st.sampled_from(_RANGES[family])),
        _match("dscp", "dscp", st.integers(0, 63).map("{:#04x}".format)),
        _match("mark", "mark", st.sampled_from(["0x1", "0x1/0x3", "0x0/0xff"])),
        _match("pkttype", "pkt-type", st.sampled_from(["unicast", "broadcast", "multicast"])),
        _match("addrtype", "dst-type", _some(("UNICAST", "LOCAL", "MULTICAST", *(() if v6 else ("BROADCAST",))))),
        words.map("-m comment --comment {}".format),
        st.tuples(st.sampled_from(["eq", "lt", "gt"]), st.integers(0, 255)).map(lambda t: f"{hops}-{t[0]} {t[1]}"),
    ]
    if protocol in ("tcp", "udp"):
        found += [_ports(protocol), _multiport()] * 2
    if protocol == "tcp":
        found += [_flags(), _match("tcpmss", "mss", _range(2000))]
    if protocol == "icmp":
        found += [_match("icmp", "icmp-type", st.sampled_from(["8", "0", "3/4", "3", "any"]))] * 3
    if protocol == "ipv6-icmp":
        found += [_match("icmp6", "icmpv6-type", st.sampled_from(["128", "129", "1/4", "1"]))] * 3
    return found


@st.composite
def rule(draw: DrawFn, family: Family, chain: str, jumps: tuple[str, ...], table: str = "filter") -> str:
    """One rule of a table; `jumps` are the chains it may go to."""
    protocols = ("tcp", "udp", "icmp" if family is Family.IPV4 else "ipv6-icmp", "")
    protocol = draw(st.sampled_from(protocols))
    words = [f"-A {chain}"]
    for option in ("-s", "-d"):
        if draw(st.integers(0, 3)) == 0:
            words.append(draw(sometimes_not(f"{option} {draw(st.sampled_from(_ADDRESSES[family]))}")))
    if chain in ("PREROUTING", "INPUT", "FORWARD") and draw(st.integers(0, 5)) == 0:
        words.append(draw(st.sampled_from(["-i in0", "! -i in0", "-i in+", "! -i eth+"])))
    if protocol:
        words.append(f"-p {protocol}")
    elif draw(st.integers(0, 7)) == 0:
        words.append("! -p tcp")
    elif family is Family.IPV4 and draw(st.integers(0, 15)) == 0:
        words.append(draw(sometimes_not("-f")))
    seen: set[str] = set()
    for condition in draw(st.lists(st.one_of(_conditions(family, protocol)), max_size=2)):
        if (name := condition.split()[1]) not in seen:
            words.append(condition)
            seen.add(name)
    targets = ["-j ACCEPT", "-j DROP", "-j RETURN", "", *_targets(family, table)]
    targets += [f"{verb} {each}" for each in jumps for verb in ("-j", "-j", "-g")]
    if protocol == "tcp" and table == "filter":
        targets.append("-j REJECT --reject-with tcp-reset")
    words.append(draw(st.sampled_from(targets)))
    return " ".join(words).strip()


def _targets(family: Family, table: str) -> list[str]:
    """Targets that stand in one table only, or mostly."""
    if table == "filter":
        return ["-j DROP", "-j REJECT"]
    if table == "raw":
        return ["-j CT --notrack"] * 3
    hops = "HL --hl" if family is Family.IPV6 else "TTL --ttl"
    return [
        *(f"-j MARK --set-xmark {value}" for value in ("0x1/0xffffffff", "0x2/0x3", "0x0/0xff", "0x5/0x1")),
        *(f"-j {hops}-{way}" for way in ("set 64", "inc 3", "dec 1")),
        *(f"-j TOS --set-tos {value}" for value in ("0x10/0xff", "0x08/0x3f", "0x02/0x00")),
        "-j DSCP --set-dscp 0x2e",
        "-j CONNMARK --set-xmark 0x4/0xf",
        "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ]


_BASES = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "FORWARD", "OUTPUT"),
}


@st.composite
def ruleset(draw: DrawFn, family: Family, most: int = 30) -> str:
    """Up to `most` rules in base chains and user chains, which only go to later ones; mostly of the table filter."""
    rules = draw(st.integers(1, most))
    others = [table for table in ("raw", "mangle") if rules > 1 and draw(st.integers(0, 3)) == 0]
    shares = {table: draw(st.integers(0, rules // 3)) for table in others}
    tables = {**shares, "filter": rules - sum(shares.values())}
    return "".join(draw(_table(family, table, share)) for table, share in tables.items())


@st.composite
def _table(draw: DrawFn, family: Family, table: str, rules: int) -> str:
    policies = ["ACCEPT", "ACCEPT", "DROP"] if table == "filter" else ["ACCEPT"]
    lines = [f"*{table}"]
    lines += [f":{chain} {draw(st.sampled_from(policies))} [0:0]" for chain in dict.fromkeys(_BASES[table])]
    lines += [f":{chain} - [0:0]" for chain in CHAINS]
    for _ in range(rules):
        chain = draw(st.sampled_from((*_BASES[table], *CHAINS)))
        jumps = CHAINS[CHAINS.index(chain) + 1 :] if chain in CHAINS else CHAINS
        lines.append(draw(rule(family, chain, jumps, table)))
    return "\n".join((*lines, "COMMIT", ""))
