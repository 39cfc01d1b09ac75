"""Ban lists found and looked at on a real kernel, in any state that others leave them in; nothing is changed by it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nfkeep import BanList, UnsupportedError
from nfkeep.bans import health
from nfkeep.bans.discover import Listed, find, lists
from nfkeep.bans.health import Severity
from nfkeep.bans.look import bans as bans_of
from nfkeep.bans.look import look
from nfkeep.xtables import recent

if TYPE_CHECKING:
    import subprocess

    from nfkeep.testing import Namespace

pytestmark = pytest.mark.kernel

BACKENDS = pytest.mark.parametrize("backend", ["nft", "ipset", "recent"])
LONG = "a-list-of-recent-whose-name-is-longer-than-any-chain"


def rules(namespace: Namespace) -> str:
    """All that the kernel has here: rules, sets, elements; without counters and times."""
    commands = ["nft -s list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ipset save"]
    lines = [line for command in commands for line in namespace.run(command).stdout.splitlines()]
    return "\n".join(re.sub(r"^(add .*) timeout \d+", r"\1", line) for line in lines if not line.startswith("#"))


def legacy_tables() -> str:
    """The legacy tables that are set up in the calling thread's namespace."""
    return "".join(Path(f"/proc/thread-self/net/{name}_tables_names").read_text() for name in ("ip", "ip6"))


def test_finds_all_lists(namespace: Namespace) -> None:
    """Lists of all backends are found by name; what others have made is none of them."""
    for command in (
        "ipset create nfkeep-jail list:set",
        "ipset create other-jail-4 hash:ip",
        "ipset create nfkeep-all-4x hash:ip",
        "nft add table inet other",
        "nft add chain inet other ban/other",
        "nft add table ip nfkeep",
        "nft add chain ip nfkeep ban/other",
        "iptables-legacy -A INPUT -m recent --name seen --set",
        "iptables-legacy -N nfkeep-hold",
    ):
        namespace.run(command)
    with namespace:
        for name, backend, timeout in (
            ("b", "nft", None),
            ("a", "ipset", None),
            ("c", "recent", 600),
            ("a-4", "ipset", None),
            (LONG, "recent", None),
        ):
            BanList(name, backend, timeout=timeout).open().close()
        BanList("d", "recent", action="reject").open().close()
        assert lists() == (
            Listed("a", "ipset"),
            Listed("a-4", "ipset"),
            Listed(LONG, "recent"),
            Listed("b", "nft"),
            Listed("c", "recent", 600.0),
            Listed("d", "recent"),
        )
        assert find("b") == find("b", "nft") == Listed("b", "nft")
        assert find("b", "ipset") is None
        assert find("seen") is None


def test_finds_nothing_and_makes_nothing(namespace: Namespace) -> None:
    """On a host without rules there are no lists, and no tables after looking."""
    with namespace:
        assert lists() == ()
        assert [finding.severity for finding in health.examine()] == [Severity.OK]
        assert legacy_tables() == ""
    assert rules(namespace) == ""


def test_finds_what_there_is_without_the_other_backends(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lacks nf_tables or ipset has no lists there, and that is all."""

    def lacking() -> None:
        raise UnsupportedError("not in this kernel")

    with namespace:
        for backend in ("nft", "ipset", "recent"):
            BanList(backend, backend).open().close()
        monkeypatch.setattr("nfkeep.nft.batch.BatchSocket", lacking)
        assert [listed.name for listed in lists()] == ["ipset", "recent"]
        monkeypatch.setattr("nfkeep.ipset.sets.Sets", lacking)
        assert [listed.name for listed in lists()] == ["recent"]


def test_finds_one_name_in_two_backends(namespace: Namespace) -> None:
    """Both are found, in the order in which they would be chosen."""
    with namespace:
        for backend in ("recent", "nft"):
            BanList("jail", backend).open().close()
        assert lists() == (Listed("jail", "nft"), Listed("jail", "recent"))


@BACKENDS
def test_looks_and_changes_nothing(backend: str, namespace: Namespace) -> None:
    """What a look tells is what the open list tells."""
    with namespace, BanList("jail", backend, ports=["22/tcp"], action="reject") as bans:
        bans.ban_many(["203.0.113.9", "203.0.113.10", "2001:db8::9"])
        if backend != "recent":
            bans.ban("203.0.113.0/24", 600, comment="a network")
            bans.ban("2001:db8::/48")
        before = rules(namespace)
        seen = look(Listed("jail", backend))
        assert (seen.policy, seen.in_force, seen.fills) == (bans.policy, True, bans.fills())
        assert seen.entries == len(bans)
        assert {ban.address: ban.comment for ban in bans_of(Listed("jail", backend))} == {
            ban.address: ban.comment for ban in bans
        }
        assert rules(namespace) == before


BROKEN = {
    "no base rules": ("nft", ["nft flush chain inet nfkeep input"]),
    "no base chain": ("nft", ["nft flush chain inet nfkeep forward", "nft delete chain inet nfkeep forward"]),
    "no jump to the list": ("nft", ["nft flush chain inet nfkeep lists"]),
    "no lookup": ("nft", ["nft flush chain inet nfkeep ban/jail"]),
    "no verdict": ("nft", ["nft flush chain inet nfkeep ban/jail/hit"]),
    "no allow list": ("nft", ["nft flush chain inet nfkeep allowed"]),
    "sets deleted": ("nft", ["nft flush chain inet nfkeep ban/jail", "nft delete set inet nfkeep ban/jail/v6"]),
    "ipset, table flushed": ("ipset", ["iptables-legacy -t mangle -F"]),
    "ipset, one jump deleted": ("ipset", ["ip6tables-legacy -t mangle -D INPUT -j nfkeep"]),
    "ipset, a rule ahead": ("ipset", ["iptables-legacy -t mangle -I FORWARD -j ACCEPT"]),
    "ipset, chain flushed": ("ipset", ["iptables-legacy -t mangle -F nfkeep:jail"]),
    "recent, table flushed": ("recent", ["iptables-legacy -t mangle -F"]),
    "recent, one jump deleted": ("recent", ["iptables-legacy -t mangle -D FORWARD -j nfkeep"]),
}


@pytest.mark.parametrize(("backend", "commands"), BROKEN.values(), ids=BROKEN)
def test_sees_what_is_missing(backend: str, commands: list[str], namespace: Namespace) -> None:
    """A list that lacks a piece is not in force, to a look as to the open list, until it is opened again."""
    with namespace, BanList("jail", backend) as bans:
        bans.ban("203.0.113.9")
        for command in commands:
            namespace.run(command)
        before = rules(namespace)
        assert bans.in_force() is False
        assert look(Listed("jail", backend)).in_force is False
        [bad] = [finding for finding in health.examine() if finding.severity is Severity.BAD]
        assert bad.what == f"ban list jail in {backend}: not in force"
        assert rules(namespace) == before
        bans.open()
        assert look(Listed("jail", backend)).in_force is True


def test_a_list_of_recent_that_went_with_its_rules(namespace: Namespace) -> None:
    """A flush of all tables ends a list of recent; the chain that stays tells that there was one."""
    with namespace:
        with BanList("jail", "recent") as bans:
            bans.ban("203.0.113.9")
        for command in ("iptables-legacy", "ip6tables-legacy"):
            namespace.run(f"{command} -t mangle -F")
        assert lists() == (Listed("jail", "recent"),)
        seen = look(Listed("jail", "recent"))
        assert (seen.policy, seen.in_force, seen.fills) == (None, False, ())
        assert list(bans_of(Listed("jail", "recent"))) == []
        bad = health.examine()[0]
        assert "its bans have gone" in bad.why


def test_comments_that_somebody_rewrote(namespace: Namespace) -> None:
    """Where the rules do not tell what the list does, it is not in force, and nothing fails."""
    with namespace:
        BanList("jail", "nft").open().close()
        namespace.run("nft flush chain inet nfkeep ban/jail/hit")
        namespace.run(["nft", 'add rule inet nfkeep ban/jail/hit drop comment "nfkeep ban list: fly to the moon"'])
        seen = look(Listed("jail", "nft"))
        assert (seen.policy, seen.in_force) == (None, False)


def test_lists_of_recent_of_others(namespace: Namespace) -> None:
    """Every list of xt_recent is told with its fill, and when it is near its size, with how to get more room."""
    namespace.run("iptables-legacy -A INPUT -p tcp -m recent --name seen --set")
    with namespace:
        size = recent.capacity().size
        file = Path(recent.DIRECTORY, "seen")

        def fill_to(count: int) -> health.Finding:
            for number in range(count):
                file.write_text(f"+198.18.{number >> 8}.{number & 255}\n")
            [found] = [each for each in health.examine() if each.what.startswith("xt_recent list seen: ")]
            assert found.what == f"xt_recent list seen: {count} of {size} addresses"
            return found

        assert fill_to(1).severity is Severity.OK
        near = fill_to(-(-size * 8 // 10))
        assert near.severity is Severity.WARN
        assert "ip_list_tot=20000" in near.fix
        assert fill_to(size).severity is Severity.BAD


def test_a_list_of_recent_that_a_rule_feeds(namespace: Namespace) -> None:
    """Where packets get their sender into a ban list of recent, that is told; that of another list is not."""
    namespace.run("iptables-legacy -A INPUT -p tcp --dport 23 -m recent --name jail --set")
    namespace.run("iptables-legacy -A INPUT -p tcp --dport 24 -m recent --name seen --set")
    with namespace:
        BanList("jail", "recent").open().close()
        fed = [finding.what for finding in health.examine() if "puts addresses into it" in finding.what]
    assert fed == ["ban list jail in recent: the rule at IPv4 filter INPUT rule 1 puts addresses into it"]


def test_doctor(namespace: Namespace, tmp_path: Path) -> None:
    """Its status is 1 while something is bad; what it says to do mends that."""
    script = tmp_path / "nfkeep"  # `python -m` would prefer a checkout in the current directory
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom nfkeep.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)

    def nfkeep(*arguments: str) -> subprocess.CompletedProcess[str]:
        return namespace.run([str(script), *arguments], check=False)

    namespace.run("iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 3 -j DROP")
    with namespace:
        BanList("jail", "nft").open().close()
        BanList("web", "ipset").open().close()
    well = nfkeep("doctor")
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines()[:3] == [
        "ok    ban list jail in nft: in force, with 0 bans",
        "ok    ban list web in ipset: in force, with 0 bans",
        "ok    no set of a ban list is near its size",
    ]
    assert [
        line for line in well.stdout.splitlines() if line.startswith("warn  connlimit at IPv4 filter INPUT rule 1 ")
    ]

    namespace.run("nft flush chain inet nfkeep input")
    namespace.run("iptables-legacy -t mangle -F INPUT")
    ill = nfkeep("doctor", "--json")
    assert (ill.returncode, ill.stderr) == (1, "nfkeep: 2 things are bad\n")
    found = json.loads(ill.stdout)
    assert [each["severity"] for each in found[:3]] == ["bad", "bad", "ok"]
    assert all(set(each) == {"severity", "what", "why", "fix"} for each in found)
    for each in found[:2]:
        program, *command = each["fix"].split()
        assert program == "nfkeep"
        assert nfkeep(*command).returncode == 0
    assert nfkeep("doctor").returncode == 0
