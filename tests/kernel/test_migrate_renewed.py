"""What changes on a host between the plan of a move and the move: it is in what is loaded."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from nfkeep import NfkeepError
from nfkeep.cli import move
from nfkeep.migrate.live import cutover, load, record
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.migrate.live.renew import renewed
from nfkeep.migrate.parts import Statement
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.table_list import table_handles, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.migrate.live.plan import Plan
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300), pytest.mark.usefixtures("own_directories")]

SETS = """create banned hash:ip timeout 600
create banned6 hash:ip family inet6 timeout 600
create forever hash:ip
create nets hash:net timeout 600
create ports hash:ip,port
create said hash:ip comment
add banned 192.0.2.1 timeout 500
add banned 192.0.2.2 timeout 2000
add banned6 2001:db8::1 timeout 500
add forever 192.0.2.3
add nets 198.51.100.0/24 timeout 500
add ports 192.0.2.4,tcp:80
add said 192.0.2.5 comment "a word"
"""
RULES = """*filter
:INPUT ACCEPT [3:300]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
[7:700] -A INPUT -m set --match-set banned src -j DROP
[0:0] -A INPUT -m set --match-set forever src -j DROP
[0:0] -A INPUT -m set --match-set nets src -j DROP
[0:0] -A INPUT -m set --match-set ports src,dst -j DROP
[0:0] -A INPUT -m set --match-set said src -j DROP
[2:222] -A INPUT -p udp -m udp --dport 9 -m quota --quota 10000 -j ACCEPT
[0:0] -A FORWARD -p tcp -j SET --add-set banned src
COMMIT
"""
RULES6 = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[0:0] -A INPUT -m set --match-set banned6 src -j DROP
COMMIT
"""


@pytest.fixture
def host(namespace: Namespace) -> Namespace:
    """A host with sets of many kinds."""
    namespace.run(["ipset", "restore"], input=SETS)
    namespace.run("iptables-legacy-restore -c", input=RULES)
    namespace.run("ip6tables-legacy-restore -c", input=RULES6)
    return namespace


def moved(host: Namespace, between: Callable[[], object]) -> None:
    """Move the host, with something done between the plan and the move."""
    with host, record.locked():
        plan = make_plan(read_host(), try_out=False)
        cutover.check(plan)
        between()
        cutover.apply(plan, lambda _: None)


def elements(host: Namespace, name: str, table: str = "ip filter") -> dict[str, dict[str, Any]]:
    """What is in a set of nft, by what it is."""
    (listed,) = (
        each["set"]
        for each in json.loads(host.run(f"nft -j list set {table} {name}").stdout)["nftables"]
        if "set" in each
    )
    found = listed.get("elem", ())
    each_one = [each["elem"] if isinstance(each, dict) and "elem" in each else {"val": each} for each in found]
    return {json.dumps(each["val"]): each for each in each_one}


def test_as_it_was_planned(host: Namespace) -> None:
    """Every element is there, with what time it has left and its comment; counters go on."""
    moved(host, lambda: None)
    banned = elements(host, "banned")
    assert banned.keys() == {'"192.0.2.1"', '"192.0.2.2"'}
    assert 490 < banned['"192.0.2.1"']["expires"] <= 500
    assert 1990 < banned['"192.0.2.2"']["timeout"] <= 2000
    assert elements(host, "banned6", "ip6 filter").keys() == {'"2001:db8::1"'}
    assert elements(host, "forever") == {'"192.0.2.3"': {"val": "192.0.2.3"}}
    assert [each["val"]["prefix"]["len"] for each in elements(host, "nets").values()] == [24]
    assert elements(host, "said")['"192.0.2.5"']["comment"] == "a word"
    listing = host.run("nft list ruleset").stdout
    assert "dormant" not in listing
    assert "ip saddr @banned counter packets 7 bytes 700 drop" in listing


def test_the_bar_of_apply_gets_to_its_end(host: Namespace) -> None:
    """The command says beforehand how many steps it will tell: one of its own, and those of the move."""
    told: list[str] = []
    with host, record.locked():
        cutover.apply(make_plan(read_host(), try_out=False), told.append)
    assert len(told) + 1 == move._STEPS


def test_who_is_banned_and_who_is_no_longer(host: Namespace) -> None:
    """Those that came are in, those that went are out, and a time that was set anew is the one."""

    def between() -> None:
        host.run(["ipset", "restore"], input=(
            "add banned 192.0.2.9 timeout 100\ndel banned 192.0.2.1\nadd banned 192.0.2.2 timeout 50 -exist\n"
            "add banned6 2001:db8::9 timeout 60\nadd forever 192.0.2.8\nadd nets 203.0.113.0/24\n"
            "del nets 198.51.100.0/24\nadd ports 192.0.2.6,tcp:81\nadd said 192.0.2.7\n"
        ))  # fmt: skip

    moved(host, between)
    banned = elements(host, "banned")
    assert banned.keys() == {'"192.0.2.9"', '"192.0.2.2"'}
    assert 40 < banned['"192.0.2.2"']["expires"] <= 50
    assert elements(host, "banned6", "ip6 filter").keys() == {'"2001:db8::1"', '"2001:db8::9"'}
    assert elements(host, "forever").keys() == {'"192.0.2.3"', '"192.0.2.8"'}
    assert [each["val"]["prefix"]["addr"] for each in elements(host, "nets").values()] == ["203.0.113.0"]
    assert len(elements(host, "ports")) == 2
    assert elements(host, "said").keys() == {'"192.0.2.5"', '"192.0.2.7"'}


def test_a_set_that_becomes_empty(host: Namespace) -> None:
    """Then nobody is in it."""
    moved(host, lambda: host.run("ipset flush banned"))
    assert elements(host, "banned") == {}


@pytest.mark.parametrize(
    ("command", "expected"),
    {
        "a rule more": ("iptables-legacy -A INPUT -s 192.0.2.77 -j DROP", "ip saddr 192.0.2.77 counter packets 0"),
        "a rule less": ("iptables-legacy -D INPUT 1", "ip saddr @forever"),
        "another policy": ("iptables-legacy -P OUTPUT DROP", "hook output priority filter; policy drop"),
        "a chain more": ("iptables-legacy -N more", "chain more"),
        "a protocol that no element had": ("ipset add ports 192.0.2.4,gre:0", "meta l4proto != "),
        "a quota that is spent": (
            "iptables-legacy -R INPUT 6 -p udp -m udp --dport 9 -m quota --quota 10000 -j ACCEPT -c 5 555",
            "10000 bytes used 555 bytes",
        ),
    }.values(),
    ids=str,
)
def test_what_is_translated_again(host: Namespace, command: str, expected: str) -> None:
    """Rules that are not those of the plan are the ones that come into force."""
    moved(host, lambda: host.run(command))
    listing = host.run("nft list ruleset").stdout
    assert expected in listing
    assert ("ip saddr @banned counter" in listing) == ("-D INPUT" not in command)


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_another_table(host: Namespace, variant: str) -> None:
    """A table that comes meanwhile was in no plan: nothing is moved."""
    with pytest.raises(NfkeepError, match="call it again"):
        moved(host, lambda: host.run(f"iptables-{variant} -t mangle -P INPUT DROP"))
    with host:
        there = {("ip", "mangle")} if variant == "nft" else set()
        assert (table_handles().keys(), cutover.standing().old) == (there, True)


def test_what_was_counted(host: Namespace) -> None:
    """Rules and policies go on from what iptables has counted by then, and nothing is translated again for it."""

    def between() -> None:
        host.run("iptables-legacy-restore -c", input=RULES.replace("[7:700]", "[8:808]").replace("[3:300]", "[4:404]"))

    moved(host, between)
    listing = host.run("nft list ruleset").stdout
    assert "ip saddr @banned counter packets 8 bytes 808 drop" in listing
    assert 'counter packets 4 bytes 404 comment "policy"' in listing


def test_only_what_can_have_changed_is_new(host: Namespace) -> None:
    """Counters and elements are no reason to translate the rules once more."""
    with host:
        plan = make_plan(read_host(), try_out=False)
        host.run("ipset add banned 192.0.2.9")
        host.run("iptables-legacy-restore -c", input=RULES.replace("[7:700]", "[8:808]"))
        fresh = renewed(plan, read_host())
    assert chains(fresh) == chains(plan)
    assert "192.0.2.9" in fresh.script
    assert "192.0.2.9" not in plan.script


def chains(plan: Plan) -> list[int]:
    """Which values the chains are."""
    return [id(table.chains) for each in plan.translations.values() for table in each.tables]


def test_what_nft_refuses(host: Namespace) -> None:
    """The old rules stay, nft has none, and no gap was between."""
    with host, record.locked():
        plan = make_plan(read_host(), try_out=False)
        (chain, *_) = next(iter(plan.translations.values())).tables[0].chains
        chain.add((Statement("no such words"),))
        with pytest.raises(NfkeepError, match="this host's nft does not take the script"):
            cutover.apply(plan, lambda _: None)
        standing = cutover.standing()
        assert (dict(table_handles()), standing.old, standing.new) == ({}, True, False)


def test_what_is_asleep_is_not_in_force(host: Namespace) -> None:
    """Tables that are loaded and not awake are told from those that are."""
    with host:
        plan = make_plan(read_host(), try_out=False)
        assert load.bring_in(plan, lambda: plan) is plan
        assert dormant() == {("ip", "filter"): True, ("ip6", "filter"): True}
        seen: list[dict[tuple[str, str], bool]] = []
        load.wake(plan, lambda: seen.append(dormant()))
        assert seen == [{("ip", "filter"): True, ("ip6", "filter"): True}, dormant()]
        assert dormant() == {("ip", "filter"): False, ("ip6", "filter"): False}


def test_what_is_asleep_and_gone_is_missed(host: Namespace) -> None:
    """Somebody deletes a table before it is awake: then nothing is."""
    with host:
        plan = make_plan(read_host(), try_out=False)
        load.bring_in(plan, lambda: plan)
        host.run("nft delete table ip6 filter")
        with pytest.raises(NfkeepError, match="somebody has deleted"):
            load.wake(plan, lambda: None)
        assert dormant() == {("ip", "filter"): True}


def dormant() -> dict[tuple[str, str], bool]:
    """Of each table whether it is."""
    with contextlib.closing(BatchSocket()) as opened:
        return {each.key: each.dormant for each in tables(opened)}


@pytest.mark.parametrize("number", range(1, 5))
def test_ctrl_c_while_a_program_starts(host: Namespace, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What that program does is undone as well: nothing comes after it."""
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def interrupted(process: subprocess.Popen[bytes], *args: Any, **options: Any) -> None:
        start(process, *args, **options)
        started.append(process)
        if len(started) == number:
            signal.raise_signal(signal.SIGINT)

    def interrupt_from_now_on() -> None:
        monkeypatch.setattr(subprocess.Popen, "__init__", interrupted)

    with pytest.raises(KeyboardInterrupt):
        moved(host, interrupt_from_now_on)
    monkeypatch.undo()
    assert len(started) >= number
    for each in started:
        each.wait()
    assert host.run("nft list ruleset").stdout == ""
    assert "nft has the rules now" not in host.run("iptables-legacy-save").stdout
