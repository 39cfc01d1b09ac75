"""Random rules and rulesets of iptables, as hypothesis strategies: text that iptables-restore takes.

The values are few and close together, so that rules and packets meet often.
"""

from __future__ import annotations

import functools
import string
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from nfkeep import Family

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

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


#: Strategies are made once and drawn from often: hypothesis looks through each new one, at length.
_NOT = st.sampled_from(["", "", "! "])
_ONE_IN_SIX, _ONE_IN_FOUR = (st.sampled_from([True, *[False] * others]) for others in (5, 3))
_SOME_PORTS = st.lists(st.sampled_from(_PORTS), min_size=1, max_size=2, unique=True).map(sorted)
_PORT = _SOME_PORTS.map(lambda ports: ":".join(map(str, ports)))


def sometimes_not(option: str, values: SearchStrategy[str]) -> SearchStrategy[str]:
    """A condition, or its opposite."""
    return st.builds("{}{} {}".format, _NOT, st.just(option), values)


def _some(names: tuple[str, ...]) -> SearchStrategy[str]:
    """Up to four of the names, in their order."""
    chosen = st.sets(st.sampled_from(names), min_size=1, max_size=4)
    return chosen.map(lambda those: ",".join(name for name in names if name in those))


def _ports(protocol: str) -> SearchStrategy[str]:
    """`-m tcp` and the like with one or both ports."""
    source, destination = (sometimes_not(side, _PORT) for side in ("--sport", "--dport"))
    options = st.one_of(source, destination, st.builds("{} {}".format, source, destination))
    return options.map(f"-m {protocol} {{}}".format)


def _flags() -> SearchStrategy[str]:
    wanted = st.one_of(st.just("NONE"), _some(_FLAGS), _some(_FLAGS))
    return sometimes_not("--tcp-flags", st.builds(_mask, _some(_FLAGS), wanted)).map("-m tcp {}".format)


def _mask(mask: str, wanted: str) -> str:
    return f"{mask} " + (",".join(name for name in wanted.split(",") if name in mask.split(",")) or "NONE")


def _multiport() -> SearchStrategy[str]:
    ports = st.lists(_PORT, min_size=1, max_size=4, unique=True).map(",".join)
    options = st.one_of([sometimes_not(option, ports) for option in ("--sports", "--dports", "--ports")])
    return options.map("-m multiport {}".format)


def _range(most: int) -> SearchStrategy[str]:
    ends = st.lists(st.integers(0, most), min_size=1, max_size=2, unique=True)
    return ends.map(lambda numbers: ":".join(map(str, sorted(numbers))))


def _match(name: str, option: str, values: SearchStrategy[str]) -> SearchStrategy[str]:
    """`-m NAME [!] --OPTION VALUE`."""
    return sometimes_not(f"--{option}", values).map(f"-m {name} {{}}".format)


@functools.cache
def _conditions(family: Family, protocol: str) -> SearchStrategy[list[str]]:
    """Up to two matches that go with a protocol ("" for none)."""
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
        st.builds(f"{hops}-{{}} {{}}".format, st.sampled_from(["eq", "lt", "gt"]), st.integers(0, 255)),
    ]
    if protocol in ("tcp", "udp"):
        found += [_ports(protocol), _multiport()] * 2
    if protocol == "tcp":
        found += [_flags(), _match("tcpmss", "mss", _range(2000))]
    if protocol == "icmp":
        found += [_match("icmp", "icmp-type", st.sampled_from(["8", "0", "3/4", "3", "any"]))] * 3
    if protocol == "ipv6-icmp":
        found += [_match("icmp6", "icmpv6-type", st.sampled_from(["128", "129", "1/4", "1"]))] * 3
    return st.lists(st.one_of(found), max_size=2, unique_by=lambda condition: condition.split()[1])


@functools.cache
def rule(family: Family, chain: str, jumps: tuple[str, ...], table: str = "filter") -> SearchStrategy[str]:
    """One rule of a table; `jumps` are the chains it may go to."""
    return st.one_of([_rule(family, chain, jumps, table, each) for each in _protocols(family)])


def _protocols(family: Family) -> tuple[str, ...]:
    return "tcp", "udp", "icmp" if family is Family.IPV4 else "ipv6-icmp", ""


def _rule(family: Family, chain: str, jumps: tuple[str, ...], table: str, protocol: str) -> SearchStrategy[str]:
    addresses = st.sampled_from(_ADDRESSES[family])
    words: list[SearchStrategy[str]] = [st.just(f"-A {chain}")]
    words += [_perhaps(_ONE_IN_FOUR, sometimes_not(option, addresses)) for option in ("-s", "-d")]
    if chain in ("PREROUTING", "INPUT", "FORWARD"):
        words.append(_perhaps(_ONE_IN_SIX, st.sampled_from(["-i in0", "! -i in0", "-i in+", "! -i eth+"])))
    if protocol:
        words.append(st.just(f"-p {protocol}"))
    else:
        fragments = ["-f", "! -f"] if family is Family.IPV4 else []
        words.append(_perhaps(_ONE_IN_SIX, st.sampled_from(["! -p tcp", *fragments])))
    words.append(_conditions(family, protocol).map(" ".join))
    targets = ["-j ACCEPT", "-j DROP", "-j RETURN", ""]
    if table != "raw" or protocol == "udp":  # what becomes of answers to others is told
        targets += _targets(family, table)
    targets += [f"{verb} {each}" for each in jumps for verb in ("-j", "-j", "-g")]
    if protocol == "tcp" and table == "filter":
        targets.append("-j REJECT --reject-with tcp-reset")
    return st.tuples(*words, st.sampled_from(targets)).map(lambda parts: " ".join(part for part in parts if part))


def _perhaps(when: SearchStrategy[bool], words: SearchStrategy[str]) -> SearchStrategy[str]:
    return when.flatmap(lambda wanted: words if wanted else _NOTHING)


_NOTHING = st.just("")


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


@functools.cache
def ruleset(family: Family, most: int = 30) -> SearchStrategy[str]:
    """Up to `most` rules of a table in base chains and user chains, which only go to later ones.

    Mostly of the table filter; sometimes with rules of mangle, or raw, or both.
    """
    whole, share = _table(family, "filter", most), max(1, most // 3)
    others = [_perhaps(_ONE_IN_FOUR, _table(family, table, share)) for table in ("raw", "mangle")]
    return st.tuples(*others, whole).map("".join)


def _table(family: Family, table: str, most: int) -> SearchStrategy[str]:
    policies = st.sampled_from(["ACCEPT", "ACCEPT", "DROP"] if table == "filter" else ["ACCEPT"])
    bases = tuple(dict.fromkeys(_BASES[table]))
    heads = [policies.map(f":{chain} {{}} [0:0]".format) for chain in bases]
    heads += [st.just(f":{chain} - [0:0]") for chain in CHAINS]
    rules = [
        rule(family, chain, CHAINS[CHAINS.index(chain) + 1 :] if chain in CHAINS else CHAINS, table)
        for chain in (*_BASES[table], *CHAINS)
    ]
    one = st.one_of(rules)  # lists of up to so many would mostly be short
    bodies = [st.lists(one, min_size=number, max_size=number) for number in range(1, most + 1)]
    body = st.integers(0, most - 1).flatmap(bodies.__getitem__)
    return st.tuples(st.tuples(*heads), body).map(
        lambda both: "\n".join((f"*{table}", *both[0], *both[1], "COMMIT", ""))
    )
