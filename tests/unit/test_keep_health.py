"""The checks of legacy tables, and the commands that move a limit, as pure functions of what was seen."""

from __future__ import annotations

import attrs
import pytest

from nfkeep import Family, Fidelity, Rule
from nfkeep.ipset.messages import WITH_FORCEADD, Header
from nfkeep.keep import health
from nfkeep.keep.health import CHECKS
from nfkeep.keep.health_finding import Finding, Severity
from nfkeep.keep.health_kernel import CTNETLINK, REDIRECT, TABLES, Kernel
from nfkeep.keep.health_limits import connection_limits
from nfkeep.keep.health_marks import free_bits, used_by_rules, used_in_listing
from nfkeep.keep.health_move import Move, Mover, Obstacle
from nfkeep.keep.health_owners import owners
from nfkeep.keep.health_seen import Seen
from nfkeep.keep.observe import Found, Observation
from nfkeep.keep.overview import State
from nfkeep.keep.selftest import Counting
from nfkeep.nft.chains import SeenChain
from nfkeep.xtables.entry import decode

OK, WARN, BAD = Severity.OK, Severity.WARN, Severity.BAD
LIMIT = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j DROP"
CONDITIONS = "-p tcp -m tcp --dport 873 --tcp-flags FIN,SYN,RST,ACK SYN"
AS_MADE = "-m connlimit --connlimit-above 10 --connlimit-saddr"
COUNT = "-m connlimit --connlimit-above 10 --connlimit-mask 32 --connlimit-saddr"
TOP, NEXT = "0x40000000", "0x20000000"
AS_IT_WAS = "   # as it was: the replace has the live connections counted"


def table(*lines: str, name: str = "filter", family: Family = Family.IPV4) -> Observation:
    """A table with these rules, each as `CHAIN rule`."""
    found: list[Found] = []
    for line in lines:
        chain, text = line.split(" ", 1)
        rule = Rule.parse(text, family)
        found.append(Found(chain, sum(each.chain == chain for each in found) + 1, rule, decode(rule)))
    chains = dict.fromkeys(("INPUT", "FORWARD", "OUTPUT", *(each.chain for each in found)))
    return Observation(name, family, tuple(chains), tuple(found))


def moved(
    *lines: str,
    mangle: tuple[str, ...] | None = None,
    nat: tuple[str, ...] = (),
    marks: int = 0,
    family: Family = Family.IPV4,
) -> list[Move | Obstacle]:
    """How each connlimit rule of a filter table is moved."""
    tables = {"filter": table(*lines, family=family)}
    if mangle is not None:
        tables["mangle"] = table(*mangle, name="mangle", family=family)
    if nat:
        tables["nat"] = table(*nat, name="nat", family=family)
    mover = Mover(tables, {("mangle", "INPUT"): "ACCEPT"}, marks)
    return [mover.move(found) for found in tables["filter"].found if any(found.matches("connlimit"))]


def commands(*lines: str, mangle: tuple[str, ...] | None = None, family: Family = Family.IPV4) -> list[str]:
    """The commands for the one connlimit rule, without the program's name."""
    [move] = moved(*lines, mangle=mangle, family=family)
    assert isinstance(move, Move), move
    program = "nfkeep ip6tables " if family is Family.IPV6 else "nfkeep iptables "
    assert all(command.startswith(program) for command in move.commands)
    return [command.removeprefix(program) for command in move.commands]


def test_the_commands_of_a_move() -> None:
    """In mangle the bit is cleared and set, the table is replaced once more, and only then does filter change."""
    assert commands("INPUT -p tcp --dport 22 -j DROP", f"INPUT {LIMIT}") == [
        f"-t mangle -A INPUT {CONDITIONS} -j MARK --set-xmark 0x0/{TOP}",
        f"-t mangle -A INPUT {CONDITIONS} {COUNT} -j MARK --set-xmark {TOP}/{TOP}",
        f"-t mangle -P INPUT ACCEPT{AS_IT_WAS}",
        f"-I INPUT 2 {CONDITIONS} -m mark --mark {TOP}/{TOP} -j DROP",
        f"-D INPUT {CONDITIONS} {AS_MADE} -j DROP",
    ]


PLACES = {
    "at the end": ((), ["-t mangle -A INPUT", "-t mangle -A INPUT"]),
    "behind what lets packets go on": (("INPUT -j MARK --set-mark 1",), ["-t mangle -A INPUT", "-t mangle -A INPUT"]),
    "before what ends their way": (("INPUT -j ACCEPT",), ["-t mangle -I INPUT 1", "-t mangle -I INPUT 2"]),
    "before a chain that does": (
        ("INPUT -j x", "x -p tcp -j DROP"),
        ["-t mangle -I INPUT 1", "-t mangle -I INPUT 2"],
    ),
    "behind a chain that only returns": (
        ("INPUT -j x", "x -p tcp -j RETURN"),
        ["-t mangle -A INPUT", "-t mangle -A INPUT"],
    ),
}


@pytest.mark.parametrize(("mangle", "begin"), PLACES.values(), ids=PLACES)
def test_where_in_mangle(mangle: tuple[str, ...], begin: list[str]) -> None:
    """Packets must come to the rules there, whatever else is in mangle."""
    told = commands(f"INPUT {LIMIT}", mangle=mangle)
    assert [command.split(f" {CONDITIONS}")[0] for command in told[:2]] == begin


PASSING = {
    "a port of its own": (["INPUT -p tcp --dport 22 -j ACCEPT"], LIMIT, []),
    "answers": (["INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"], LIMIT, []),
    "some clients, each with a count": (["INPUT -s 10.0.0.0/8 -j ACCEPT"], LIMIT, []),
    "the loopback, each with a count": (["INPUT -i lo -j ACCEPT"], LIMIT, []),
    "some clients of this protocol, each with a count": (["INPUT -s 10.0.0.0/8 -p tcp -j ACCEPT"], LIMIT, []),
    "some clients at a port": (
        ["INPUT -s 10.0.0.0/8 -p tcp --dport 800:900 -j ACCEPT"],
        LIMIT,
        ["-s 10.0.0.0/8 -p tcp -m tcp --dport 800:900 -j RETURN"],
    ),
    "what is dropped": (["INPUT -s 10.0.0.0/8 -p tcp -j DROP"], LIMIT, []),
    "some clients, all with one count": (
        ["INPUT -s 10.0.0.0/8 -j ACCEPT", "INPUT -i lo -j ACCEPT"],
        LIMIT.replace("above 10", "above 10 --connlimit-mask 0"),
        ["-s 10.0.0.0/8 -j RETURN", "-i lo -j RETURN"],
    ),
    "some servers": (["INPUT -d 10.0.0.1 -j ACCEPT"], LIMIT, ["-d 10.0.0.1/32 -j RETURN"]),
    "another interface": (["INPUT -i eth9 -j ACCEPT"], LIMIT, ["-i eth9 -j RETURN"]),
}


@pytest.mark.parametrize(("before", "limit", "exceptions"), PASSING.values(), ids=PASSING)
def test_what_passes_before(before: list[str], limit: str, exceptions: list[str]) -> None:
    """What rules before it accept is not counted in mangle either, wherever that makes a difference."""
    chain = f"limit-INPUT-{len(before) + 1}"
    told = commands(*before, f"INPUT {limit}")
    added = [command.removeprefix(f"-t mangle -A {chain} ") for command in told if command.endswith("-j RETURN")]
    assert added == exceptions
    assert (f"-t mangle -N {chain}" in told, f"-t mangle -A INPUT -j {chain}" in told) == (bool(exceptions),) * 2


@pytest.mark.parametrize("family", Family, ids=str)
def test_a_chain_comes_along_with_all_that_leads_to_it(family: Family) -> None:
    """Its jumps are made in mangle as they are, each chain before what jumps to it, the base chains last."""
    rules = ("INPUT -p tcp -j a", "FORWARD -i eth0 -g a", "a -p tcp --dport 800:900 -j b", f"b {LIMIT}")
    told = commands(*rules, family=family)
    assert told[:2] == ["-t mangle -N b", "-t mangle -N a"]
    assert told[2].startswith("-t mangle -A b -p tcp -m tcp --dport 873 ")
    assert told[4:8] == [
        "-t mangle -A a -p tcp -m tcp --dport 800:900 -j b",
        "-t mangle -A FORWARD -i eth0 -g a",
        "-t mangle -A INPUT -p tcp -j a",
        f"-t mangle -P FORWARD ACCEPT{AS_IT_WAS}",
    ]
    assert told[8].startswith("-I b 1 ")


def test_names_are_free() -> None:
    """A chain of mangle that is there already is not touched, nor one that another rule has been promised."""
    [one, other] = moved("INPUT -j x", f"x {LIMIT}", f"x {LIMIT}", mangle=("x -j ACCEPT",))
    assert isinstance(one, Move)
    assert isinstance(other, Move)
    assert one.commands[0] == "nfkeep iptables -t mangle -N x-2"
    assert other.commands[0] == "nfkeep iptables -t mangle -N x-3"
    [long] = moved(f"INPUT -j {'x' * 28}", f"{'x' * 28} {LIMIT}", mangle=(f"{'x' * 28} -j ACCEPT",))
    assert isinstance(long, Move)
    assert long.commands[0] == f"nfkeep iptables -t mangle -N {'x' * 26}-2"


def test_bits() -> None:
    """Rules that no packet meets both of share a bit of the mark, others do not; bits in use are left alone."""
    answers = "-p tcp -m conntrack --ctstate ESTABLISHED -m connlimit --connlimit-above 3 -j DROP"
    udp, all_ports = (
        "-p udp -m connlimit --connlimit-above 3 -j DROP",
        "-p tcp -m connlimit --connlimit-above 3 -j DROP",
    )
    both = moved(f"INPUT {LIMIT}", f"INPUT {udp}", f"INPUT {all_ports}", f"INPUT {answers}")
    assert [next(c.split()[-1] for c in m.commands if "0x0/" in c) for m in both if isinstance(m, Move)] == [
        f"0x0/{TOP}",
        f"0x0/{TOP}",
        f"0x0/{NEXT}",
        "0x0/0x10000000",
    ]
    [move] = moved(f"INPUT {LIMIT}", marks=0x40000000)
    assert isinstance(move, Move)
    assert f"{NEXT}/{NEXT}" in move.commands[1]
    assert moved(f"INPUT {LIMIT}", marks=0xFFFFFFFF) == [Obstacle("all bits of the packet mark are in use")]


def test_state_of_its_own_stays_in_filter() -> None:
    """What the rule asks for behind connlimit, and takes note of, goes on in its place."""
    told = commands("INPUT -p tcp -m connlimit --connlimit-above 3 -m limit --limit 1/s -m comment --comment x -j LOG")
    assert [command for command in told if "-m limit" in command] == [
        f"-I INPUT 1 -p tcp -m mark --mark {TOP}/{TOP} -m limit --limit 1/sec -m comment --comment x -j LOG",
        "-D INPUT -p tcp -m connlimit --connlimit-above 3 --connlimit-saddr -m limit --limit 1/sec"
        " -m comment --comment x -j LOG",
    ]


OBSTACLES = {
    "another state decides first": (
        ["INPUT -m recent --name x --update -m connlimit --connlimit-above 3 -j DROP"],
        "its recent match decides first",
    ),
    "nothing leads there": ([f"x {LIMIT}"], "no rule leads to the chain x"),
    "a jump with state": (
        ["INPUT -m limit --limit 1/s -j x", f"x {LIMIT}"],
        "the jump at IPv4 filter INPUT rule 1 keeps",
    ),
}


@pytest.mark.parametrize(("rules", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_cannot_be_moved(rules: list[str], reason: str) -> None:
    """Where the commands would change what is counted, there are none, and the reason is told."""
    [obstacle] = moved(*rules)
    assert isinstance(obstacle, Obstacle)
    assert obstacle.reason.startswith(reason)


def test_mangle_that_ends_and_marks() -> None:
    """First in mangle its mark would be overwritten, and last it would not be set."""
    [obstacle] = moved(f"INPUT {LIMIT}", mangle=("INPUT -j MARK --set-mark 1", "INPUT -j ACCEPT"))
    assert obstacle == Obstacle("rules of mangle INPUT end the way of packets, and others set the whole mark")
    [move] = moved(f"INPUT {LIMIT}", mangle=("INPUT -j MARK --set-xmark 1/1", "INPUT -j ACCEPT"))
    assert isinstance(move, Move)


DOUBTS = {
    "a chain that accepts": (
        ["INPUT -j x", f"INPUT {LIMIT}", "x -p tcp -d 192.0.2.1 -j ACCEPT"],
        (),
        "what the chain x accepts",
    ),
    "a chain that drops": (["INPUT -j x", f"INPUT {LIMIT}", "x -p tcp -j DROP"], (), ""),
    "a chain that accepts others": (["INPUT -j x", f"INPUT {LIMIT}", "x -p tcp --dport 22 -j ACCEPT"], (), ""),
    "a way without return": (["INPUT -g x", f"INPUT {LIMIT}", "x -p tcp -j DROP"], (), "what the chain x accepts"),
    "a limited exception": (
        ["INPUT -m limit --limit 1/s -j ACCEPT", f"INPUT {LIMIT}"],
        (),
        "what IPv4 filter INPUT rule 1 accepts is counted",
    ),
    "NAT in OUTPUT": ([f"OUTPUT {LIMIT}"], ("OUTPUT -p tcp -j DNAT --to-destination 192.0.2.1",), "in OUTPUT it sees"),
    "NAT elsewhere": ([f"INPUT {LIMIT}"], ("OUTPUT -p tcp -j DNAT --to-destination 192.0.2.1",), ""),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "nat", "but"), DOUBTS.values(), ids=DOUBTS)
def test_what_is_otherwise_then(rules: list[str], nat: tuple[str, ...], but: str) -> None:
    """What the moved rule counts otherwise is told."""
    [move] = moved(*rules, nat=nat)
    assert isinstance(move, Move)
    assert move.but.startswith(but)
    assert bool(move.but) == bool(but)


MARKS = {
    "set": ("-j MARK --set-mark 5", 5),
    "set under a mask": ("-j MARK --set-xmark 0x1/0xff", 0xFF),
    "or": ("-j MARK --or-mark 4", 4),
    "and": ("-j MARK --and-mark 4", 4),
    "tested": ("-m mark --mark 0x10/0x30 -j ACCEPT", 0x30),
    "of the connection": ("-m connmark --mark 0x3 -j ACCEPT", 3),
    "restored": ("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff00", 0xFFFF),
    "restored whole": ("-j CONNMARK --restore-mark", 0),
    "of a proxy": ("-p tcp -j TPROXY --on-port 1 --tproxy-mark 0x2/0x6", 6),
    "none": ("-p tcp --dport 4 -j ACCEPT", 0),
}


@pytest.mark.parametrize(("rule", "used"), MARKS.values(), ids=MARKS)
def test_marks_of_rules(rule: str, used: int) -> None:
    """The bits that a rule tests or writes; to write all of them is not to use all of them."""
    assert used_by_rules([table(f"PREROUTING {rule}", name="mangle")]) == used


LISTINGS = {
    "a rule of routing": ("32765:\tfrom all fwmark 0x10/0xf0 lookup 51820", 0xF0 | 0x10 | 51820),
    "a rule of nftables": ("\t\tmeta mark set meta mark & 0xffffff0f | 0x00000020", 0xF0 | 0x20),
    "what comes before the mark": ("tcp dport 8192 meta mark 0x00000001 accept", 1),
    "nothing of marks": ("tcp dport 22 accept\n0:\tfrom all lookup local", 0),
}


@pytest.mark.parametrize(("text", "used"), LISTINGS.values(), ids=LISTINGS)
def test_marks_in_listings(text: str, used: int) -> None:
    """The numbers behind the word; rather one bit too many than one too few."""
    assert used_in_listing(text) == used


def test_free_bits() -> None:
    """From above, without those in use, and never the sign."""
    assert free_bits(0x40000000)[:2] == [0x20000000, 0x10000000]
    assert free_bits(0xFFFFFFFE) == [1]


def test_owners() -> None:
    """Known by their chains, each once, with the first of them."""
    chains = ("INPUT", "ufw-before-input", "f2b-sshd", "f2b-web", "DOCKER-USER", "mine")
    assert owners(chains) == {"ufw": "ufw-before-input", "fail2ban": "f2b-sshd", "Docker": "DOCKER-USER"}


def state(where: str, on_change: Fidelity = Fidelity.RESTORED, detail: str = "") -> State:
    return State("connlimit", where, "3 live flows, limit 10 per source /32", on_change, detail)


def limits(*tables: Observation, states: tuple[State, ...] = ()) -> list[Finding]:
    return list(connection_limits(Seen(tables=tables, states=states)))


def test_a_limit_in_filter() -> None:
    """Which program has it forget its connections, how many there are, and what moves it."""
    [found] = limits(table(f"INPUT {LIMIT}", "f2b-sshd -j RETURN"), states=(state("IPv4 filter INPUT rule 1"),))
    assert found.severity is WARN
    assert found.what == (
        "connlimit at IPv4 filter INPUT rule 1 (3 live flows, limit 10 per source /32): "
        "forgotten at every iptables command on filter"
    )
    assert found.why.startswith("fail2ban (chain f2b-sshd), like every other program that changes a rule there")
    assert found.fix.splitlines()[0].startswith("nfkeep iptables -t mangle -A INPUT")


def test_a_limit_in_mangle() -> None:
    """It is well there, unless a known program edits mangle; a hold is no limit."""
    [found] = limits(table(f"INPUT {LIMIT}", name="mangle"))
    assert found.severity is OK
    [found] = limits(table(f"INPUT {LIMIT}", "KUBE-KUBELET-CANARY -j RETURN", name="mangle"))
    assert (found.severity, found.fix) == (WARN, "nfkeep iptables ARGS…   # in place of iptables")
    [found] = limits(table(f"INPUT {LIMIT}"), table("KUBE-KUBELET-CANARY -j RETURN", name="mangle"))
    assert found.why.endswith("; Kubernetes edits mangle, too")
    assert limits(table(f"nfkeep-hold {LIMIT}", name="raw")) == []


def test_a_limit_of_ipv6() -> None:
    """Its commands are those of ip6tables."""
    [found] = limits(table(f"INPUT {LIMIT}", family=Family.IPV6))
    assert all(line.startswith("nfkeep ip6tables ") for line in found.fix.splitlines())


RECENT = "-p tcp -m recent --name seen --set"
LOST = "opening packets would meet recent at {}"


def test_a_limit_behind_a_list() -> None:
    """One that nfkeep does not count again is bad; it is moved past the list, if mangle is past it."""
    where = "IPv4 filter INPUT rule 2"
    lost = state(where, Fidelity.LOST, LOST.format("IPv4 filter INPUT rule 1"))
    [found] = limits(table(f"INPUT {RECENT}", f"INPUT {LIMIT}"), states=(lost,))
    assert found.severity is BAD
    assert found.what.endswith(": opening packets would meet recent at IPv4 filter INPUT rule 1")
    assert "nfkeep iptables -t mangle -P INPUT ACCEPT" in found.fix

    first = table(f"PREROUTING {RECENT}", name="raw")
    [found] = limits(first, table("INPUT -p tcp --dport 1 -j DROP", f"INPUT {LIMIT}"), states=(lost,))
    assert found.fix.startswith("nfkeep iptables -L INPUT -n -v --line-numbers")


def test_a_limit_that_is_better_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would be counted as the first rule, but not in mangle, the commands put it first."""
    lost = state("IPv4 mangle INPUT rule 2", Fidelity.LOST, LOST.format("IPv4 mangle INPUT rule 1"))
    counted = attrs.make_class("Counted", {"where": attrs.field(), "hazard": attrs.field(default="")})
    planned = attrs.make_class("Planned", ["limits"])

    def plan(table: Observation, *_: object) -> object:
        return planned([counted(table.where(table.found[0]))] if table.found[0].position == 1 else [])

    monkeypatch.setattr("nfkeep.keep.health_limits.make_plan", plan)
    [found] = limits(table(f"INPUT {RECENT}", f"INPUT {LIMIT}", name="mangle"), states=(lost,))
    assert found.fix.splitlines() == [
        f"nfkeep iptables -t mangle -I INPUT 1 {CONDITIONS} {AS_MADE} -j DROP",
        "nfkeep iptables -t mangle -D INPUT 3",
    ]


def test_a_limit_of_packets() -> None:
    """Each becomes a bucket with a name of its own that is kept until it is full again; other matches stay."""
    rules = (
        "INPUT -j ACCEPT",
        'INPUT -p tcp -m limit --limit 3/hour -m comment --comment "a b" -j LOG',
        "INPUT -m limit --limit 7/s --limit-burst 9",
    )
    seen = table(*rules, family=Family.IPV6, name="mangle")
    [found] = health.resets(Seen(tables=(seen,), entries={(Family.IPV6, ("hashlimit", "limit-INPUT-1")): 1}))
    bucket = "-m hashlimit --hashlimit-upto {} --hashlimit-burst {} --hashlimit-name {} --hashlimit-htable-expire {}"
    first = bucket.format("3/hour", 5, "limit-INPUT-2", 6000000)
    assert found.fix.splitlines() == [
        f"nfkeep ip6tables -t mangle -R INPUT 2 -p tcp {first} -m comment --comment 'a b' -j LOG",
        f"nfkeep ip6tables -t mangle -R INPUT 3 {bucket.format('7/sec', 9, 'limit-INPUT-3', 1286)}",
    ]
    [found] = health.resets(Seen(tables=(table("INPUT -m limit --limit 1/s -m limit --limit 2/s"),)))
    assert found.fix.startswith("nfkeep iptables ARGS…")


def ip_set(used: int, flags: int = 0, name: str = "bl", timeout: int | None = None) -> Header:
    return Header(name, "hash:ip", Family.IPV4, 4, 100, used, 64, 1, timeout, flags)


KEY = ("recent", "seen")
F2B = table(f"INPUT {RECENT}", "f2b-sshd -j RETURN")
PLAIN = table(f"INPUT {RECENT}")
BUCKETS = table(
    "INPUT -m hashlimit --hashlimit-upto 5/s --hashlimit-name h --hashlimit-htable-size 8 --hashlimit-htable-max 9"
)
HELD = frozenset({(Family.IPV4, KEY)})
OLDER = table("nfkeep-hold -m recent --name seen --rcheck", name="raw")
H = (Family.IPV4, ("hashlimit", "h"))
NFT = SeenChain("inet", "firewall", "input", 1, -10, 3)
COMPAT = SeenChain("ip", "filter", "INPUT", 1, 0, 3)
BOTH = "inet firewall, ip filter, made by iptables-nft"
ACCEPT = table("INPUT -j ACCEPT")
CASES = {
    "nothing": (Seen(), []),
    "a limit, a quota and a round": (
        Seen(
            tables=(
                table(
                    *("INPUT -m limit --limit 1/s", "INPUT -m limit --limit 1/s", "INPUT -m quota --quota 9"),
                    "INPUT -m statistic --mode nth --every 2 --packet 0",
                    "INPUT -m statistic --mode random --probability 0.5",
                ),
            )
        ),
        [
            (WARN, "limit at IPv4 filter INPUT rule 1 and 1 more: set back by every iptables command on that table"),
            (WARN, "quota at IPv4 filter INPUT rule 3: set back by every iptables command on that table"),
            (WARN, "statistic at IPv4 filter INPUT rule 4: set back by every iptables command on that table"),
        ],
    ),
    "buckets with room": (Seen(tables=(BUCKETS,), entries={H: 7}), []),
    "few buckets left": (Seen(tables=(BUCKETS,), entries={H: 8}), [(WARN, "hashlimit table IPv4 h: 8 of 9 buckets")]),
    "buckets used": (Seen(tables=(BUCKETS,), entries={H: 9}), [(BAD, "hashlimit table IPv4 h: 9 of 9 buckets")]),
    "a list in a table that is rebuilt": (
        Seen(tables=(F2B,), entries={(Family.IPV4, KEY): 3}),
        [
            (OK, "fail2ban edits IPv4 filter (it has the chain f2b-sshd there)"),
            (WARN, "recent seen (3 entries): only rules in IPv4 filter name it, which fail2ban edits"),
        ],
    ),
    "that list, held": (
        Seen(tables=(F2B, OLDER), held=HELD),
        [
            (OK, "fail2ban edits IPv4 filter (it has the chain f2b-sshd there)"),
            (OK, "recent seen: held by a rule in the chain nfkeep-hold (0 entries)"),
        ],
    ),
    "that list, named elsewhere": (
        Seen(tables=(F2B, table(f"INPUT {RECENT}", name="mangle"))),
        [(OK, "fail2ban edits IPv4 filter (it has the chain f2b-sshd there)")],
    ),
    "a list in a table of one's own": (Seen(tables=(PLAIN,)), []),
    "a hold for nobody": (
        Seen(tables=(OLDER, ACCEPT), held=HELD),
        [(WARN, "recent seen: held by a rule in the chain nfkeep-hold (0 entries)")],
    ),
    "a set with room": (Seen(sets=(ip_set(79),)), [(OK, "no ipset that rules name is near its size")]),
    "a set near its size": (Seen(sets=(ip_set(80),)), [(WARN, "ipset bl: 80 of 100 entries")]),
    "a full set": (
        Seen(sets=(ip_set(100, timeout=60),)),
        [(BAD, "ipset bl: 100 of 100 entries; its entries last 60 s")],
    ),
    "a full set that drops old entries": (
        Seen(sets=(ip_set(100, WITH_FORCEADD),)),
        [(OK, "no ipset that rules name is near its size")],
    ),
    "a set of a ban list": (
        Seen(sets=(ip_set(100, name="nfkeep-jail-4"),)),
        [(OK, "no ipset that rules name is near its size")],
    ),
    "one world": (Seen(tables=(ACCEPT,)), []),
    "the other one": (Seen(nft=(NFT,)), []),
    "two worlds": (
        Seen(tables=(ACCEPT,), nft=(NFT, COMPAT)),
        [(WARN, f"rules in legacy tables (IPv4 filter) and in nftables ({BOTH})")],
    ),
    "two worlds, of which one is ours": (
        Seen(tables=(table("INPUT -j nfkeep", "nfkeep -j DROP", "nfkeep:x -j DROP"),), nft=(NFT,)),
        [],
    ),
    "a policy is a rule": (
        Seen(tables=(table(),), policies={(Family.IPV4, "filter", "INPUT"): "DROP"}, nft=(NFT,)),
        [(WARN, "rules in legacy tables (IPv4 filter) and in nftables (inet firewall)")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("host", "expected"), CASES.values(), ids=CASES)
def test_findings(host: Seen, expected: list[tuple[Severity, str]]) -> None:
    """Each has a severity and says what was found, in the order of the checks; the kernel has a test of its own."""
    found = [finding for check in CHECKS if check is not health.kernel for finding in check(host)]
    assert [(finding.severity, finding.what) for finding in found] == expected
    for finding in found:
        assert (bool(finding.why), bool(finding.fix)) == ((finding.severity is not OK,) * 2)


def test_the_order_of_two_worlds() -> None:
    """For each hook and family where packets meet both, by priority."""
    rules = table("INPUT -j ACCEPT", "FORWARD -j ACCEPT", family=Family.IPV6)
    host = Seen(tables=(rules,), nft=(NFT, COMPAT))
    [found] = health.two_worlds(host)
    assert found.why.endswith("IPv6 INPUT: inet firewall (-10), legacy filter (0)")


COUNTED = dict.fromkeys(Family, Counting.RECREATE)
CONFIG = {option: "y" for part in (CTNETLINK, REDIRECT, *TABLES.values()) for option in part.options}
KERNELS = {
    "all there": (Kernel("6", counting=COUNTED), [OK, OK]),
    "another way for each family": (
        Kernel("6", counting={Family.IPV4: Counting.PRIME, Family.IPV6: Counting.RECREATE}),
        [OK, OK, OK],
    ),
    "nothing counts": (Kernel("6", counting=dict.fromkeys(Family, Counting.NEITHER)), [OK, BAD]),
    "not tested": (Kernel("6", tested=False), [WARN]),
    "a part is missing": (
        Kernel("6", counting=dict.fromkeys(Family, Counting.NEITHER), missing={REDIRECT: "no"}),
        [BAD],
    ),
    "an option": (Kernel("6", counting=COUNTED, options={"NETFILTER_XTABLES_LEGACY": "m"}), [OK, OK, OK]),
}


@pytest.mark.parametrize(("kernel", "severities"), KERNELS.values(), ids=KERNELS)
def test_the_kernel(kernel: Kernel, severities: list[Severity]) -> None:
    """What the self-test has found, where there is a limit whose count has to be kept."""
    found = list(health.kernel(Seen(kernel=kernel, tables=(table(f"INPUT {LIMIT}"),))))
    assert [finding.severity for finding in found] == severities
    for finding in found:
        assert (bool(finding.why), bool(finding.fix)) == ((finding.severity is not OK,) * 2)


def test_what_is_missing() -> None:
    """Where there is no limit it is no harm yet; the options are told that this kernel was built without, if known."""
    missing = {REDIRECT: "no /dev/net/tun"}
    [found, *_] = health.kernel(Seen(kernel=Kernel("6", missing=missing)))
    assert found.severity is WARN
    assert found.what == "kernel 6: no TAP devices with a tc redirect (no /dev/net/tun)"
    assert found.fix.startswith("modprobe -a tun sch_ingress cls_u32 act_mirred   # or a kernel with CONFIG_TUN, ")
    [found, *_] = health.kernel(Seen(kernel=Kernel("6", missing=missing, options=CONFIG | {"TUN": "n"})))
    assert found.fix == "boot a kernel with CONFIG_TUN   # this one is built without"


def test_no_place_for_the_lock() -> None:
    """Where the lock cannot be taken, programs undo each other's changes."""
    found = list(health.kernel(Seen(lock="/run/x y")))[-1]
    assert (found.severity, found.fix) == (WARN, "mkdir -p '/run/x y'")


def test_a_change_that_was_cut_off() -> None:
    """It is bad, and there is a command that finishes it."""
    [found] = health.unfinished(Seen(unfinished=("IPv4 filter, IPv4 mangle",)))
    assert (found.severity, found.fix) == (Severity.BAD, "nfkeep recover")
    assert "IPv4 filter, IPv4 mangle" in found.what
    assert list(health.unfinished(Seen())) == []
