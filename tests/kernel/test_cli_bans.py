"""The commands on ban lists as processes of their own: what they do to the kernel, print, refuse and leave alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from nfkeep import BanList, cli
from nfkeep.model import Family
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.testing import Namespace
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory, GatewayFactory

pytestmark = pytest.mark.kernel

BACKENDS = pytest.mark.parametrize("backend", ["nft", "ipset", "recent"])
MADE = "nfkeep: made the ban list jail in {}; it drops everything from those it bans\n"
NO_ADDRESS = "this is no IPv4 or IPv6 address, nor a network in the form ADDRESS/BITS"


@attrs.frozen
class Host:
    """`nfkeep` in a namespace: `run` gives what came of a command, `ok` its output, after it has gone well."""

    namespace: Namespace
    command: str

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """What came of `nfkeep ARGUMENTS`, which never is a traceback."""
        done = self.namespace.run([self.command, *arguments], check=False, **options)
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *arguments: str, **options: Any) -> str:
        """What `nfkeep ARGUMENTS` prints; it has nothing to say on stderr."""
        done = self.run(*arguments, **options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The same of a command with --json."""
        return json.loads(self.ok(*arguments, "--json"))

    def banned(self, name: str = "jail") -> list[str]:
        """Whom a list bans."""
        return [ban["address"] for ban in self.json("bans", name)["bans"]]

    def rules(self) -> list[str]:
        """All rules, sets and elements that the kernel has here."""
        commands = ["nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ipset save"]
        texts = [self.namespace.run(command).stdout for command in commands]
        return [line for text in texts for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture
def nfkeep(tmp_path: Path) -> str:
    """The command `nfkeep`. A script and not `python -m`, which would prefer a checkout in the current directory."""
    script = tmp_path / "nfkeep"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom nfkeep.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def host(namespace: Namespace, nfkeep: str) -> Host:
    """A host with nothing on it."""
    return Host(namespace, nfkeep)


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_a_ban_is_in_force_and_lifted(
    family: Family, gateway_factory: GatewayFactory, nfkeep: str, echo_server: EchoServerFactory, dialer: Dialer
) -> None:
    """A banned client gets in no more, and again when its ban is lifted."""
    gateway = gateway_factory(2)  # the first client is on the way to the others, and so none to be banned
    host = Host(gateway.gateway, nfkeep)
    address = gateway.gateway_address(family)
    echo_server(gateway.gateway, family, "tcp", address, 873)
    client = str(gateway.client_addresses(family)[1])

    def gets_in() -> bool:
        return len(dialer(gateway.client, family, "tcp", address, 873, source=client, timeout=1.0)) == 1

    assert gets_in()
    assert host.run("ban", "jail", client).returncode == 0
    assert not gets_in()
    host.ok("unban", "jail", client)
    assert gets_in()


@BACKENDS
def test_ban_show_unban_remove(backend: str, host: Host) -> None:
    """A list goes through its life in each backend, and in the end there is nothing left of it."""
    before = host.rules()
    made = host.run("ban", "jail", "203.0.113.9", "2001:db8::9", "--backend", backend)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", MADE.format(backend))
    assert host.banned() == ["203.0.113.9", "2001:db8::9"]
    assert host.ok("bans", "jail").splitlines() == [
        "ADDRESS      REMAINING  TIMEOUT  COMMENT",
        "203.0.113.9  forever    forever",
        "2001:db8::9  forever    forever",
    ]
    [listed] = host.json("bans")
    assert (listed["list"], listed["backend"], listed["entries"], listed["in_force"]) == ("jail", backend, 2, True)
    host.ok("unban", "jail", "203.0.113.9")
    assert host.banned() == ["2001:db8::9"]
    host.ok("list", "flush", "jail")
    assert host.ok("bans", "jail") == "jail bans nobody.\n"
    host.ok("list", "remove", "jail")
    assert host.ok("bans") == "There are no ban lists here.\n"
    assert [line for line in host.rules() if "nfkeep" in line or "jail" in line] == []
    assert before == []


@pytest.mark.parametrize("backend", ["nft", "ipset"])
def test_times_networks_and_comments(backend: str, host: Host) -> None:
    """A ban has its time, its comment and its network; banned again, its time starts anew."""
    host.ok("list", "create", "jail", "--backend", backend)
    host.ok("ban", "jail", "203.0.113.0/24", "2001:db8::/48", "--for", "1h30m", "--comment", "scans, ticket 71")
    bans = host.json("bans", "jail")["bans"]
    assert [(ban["address"], ban["comment"]) for ban in bans] == [
        ("203.0.113.0/24", "scans, ticket 71"),
        ("2001:db8::/48", "scans, ticket 71"),
    ]
    assert all(5300 < ban["expires"] <= ban["timeout"] <= 5400 for ban in bans)
    host.ok("ban", "jail", "203.0.113.0/24", "--for", "7d")
    host.ok("ban", "jail", "2001:db8::/48", "--for", "forever")
    again = host.json("bans", "jail")["bans"]
    assert 604_700 < again[0]["expires"] <= 604_800
    assert (again[1]["timeout"], again[1]["expires"]) == (None, None)


def test_json_of_bans(host: Host) -> None:
    """The object that `bans LIST --json` prints has these members and no other."""
    host.ok("list", "create", "jail", "--port", "22/tcp", "--reject-with", "tcp-reset")
    host.ok("ban", "jail", "203.0.113.9")
    assert host.json("bans", "jail") == {
        "list": "jail",
        "backend": "nft",
        "reason": "the list is there, in nft",
        "policy": "reject:tcp-reset 22/tcp",
        "in_force": True,
        "fills": [
            {"name": "set ban/jail/v4", "used": 1, "size": 131072},
            {"name": "set ban/jail/v6", "used": 0, "size": 131072},
        ],
        "bans": [{"address": "203.0.113.9", "timeout": None, "expires": None, "comment": ""}],
    }


def test_refused_ones_do_not_stop_the_others(host: Host) -> None:
    """Of several addresses the good ones are banned; each refused one has its line, and the status is 1."""
    done = host.run("ban", "jail", "203.0.113.9", "nonsense", "127.0.0.1", "203.0.113.1/24", "::/0", "2001:db8::9")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        MADE.format("nft").strip(),
        f"nfkeep: 'nonsense': {NO_ADDRESS}",
        "nfkeep: '203.0.113.1/24': a network has no bits set behind its prefix",
        "nfkeep: 127.0.0.1 is not banned: it is an address of this host",
        "nfkeep: ::/0 is not banned: it is everybody; only force bans that",
    ]
    assert host.banned() == ["203.0.113.9", "2001:db8::9"]

    told = host.run("ban", "jail", "203.0.113.10", "nonsense", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout) == {
        "list": "jail",
        "backend": "nft",
        "reason": "the list is there, in nft",
        "made": False,
        "banned": 1,
        "refused": [{"address": "nonsense", "reason": f"'nonsense': {NO_ADDRESS}"}],
    }


NOTHING_TO_BAN = {
    "no address": (["nonsense"], ""),
    "own addresses": (["127.0.0.1", "::1"], ""),
    "no address on stdin": (["-"], "nonsense\n\n # nothing\n"),
    "nothing on stdin": (["-"], ""),
    "a comment that cannot be": (["203.0.113.9", "--comment", 'a"b'], ""),
    "a time that cannot be": (["203.0.113.9", "--for", "99999999w"], ""),
}


@BACKENDS
@pytest.mark.parametrize(("arguments", "stdin"), NOTHING_TO_BAN.values(), ids=NOTHING_TO_BAN)
def test_no_list_is_made_for_nothing(backend: str, arguments: list[str], stdin: str, host: Host) -> None:
    """Where nobody is banned there is no new list, and no word of one."""
    done = host.run("ban", "jail", *arguments, "--backend", backend, input=stdin)
    assert done.returncode == (0 if not stdin and arguments == ["-"] else 1)
    assert "made" not in done.stderr
    assert [line for line in host.rules() if "nfkeep" in line or "jail" in line] == []


def test_a_list_that_was_there_stays_without_bans(host: Host) -> None:
    """What `ban` has not made it does not take down."""
    host.ok("list", "create", "jail")
    assert host.run("ban", "jail", "127.0.0.1").returncode == 1
    assert host.banned() == []


def test_stdin(host: Host) -> None:
    """Addresses come from stdin, one a line, without what is behind a #; what is no text is no address."""
    lines = b"203.0.113.9\n  2001:db8::9  # a comment\r\n\n# nothing\n\xff\xfe\n203.0.113.10"
    with host.namespace:
        done = subprocess.run([host.command, "ban", "jail", "-"], input=lines, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [MADE.format("nft").strip(), f"nfkeep: '\ufffd\ufffd': {NO_ADDRESS}"]
    assert host.banned() == ["203.0.113.9", "203.0.113.10", "2001:db8::9"]
    assert host.run("unban", "jail", "-", input="203.0.113.9\n203.0.113.77\n").returncode == 0
    assert host.banned() == ["203.0.113.10", "2001:db8::9"]


def test_stdin_does_not_wait_for_its_end(host: Host) -> None:
    """The first ones are banned while the last ones are not there yet."""
    host.ok("list", "create", "jail")
    process = host.namespace.popen([host.command, "ban", "jail", "-"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.writelines(f"198.18.{n >> 8}.{n & 255}\n" for n in range(20_000))
    process.stdin.flush()
    with host.namespace, BanList("jail") as bans:
        assert wait_until(lambda: len(bans) >= 10_000, timeout=60.0)
        process.stdin.close()
        assert process.wait() == 0
        assert len(bans) == 20_000


def test_unban_of_whom_nobody_bans(host: Host) -> None:
    """That an address was not banned is told and no failure; that it still is, by a network, is one."""
    host.ok("list", "create", "jail")
    host.ok("ban", "jail", "203.0.113.0/24", "203.0.113.9")
    absent = host.run("unban", "jail", "198.51.100.1", "2001:db8::1")
    assert (absent.returncode, absent.stderr.splitlines()) == (
        0,
        ["nfkeep: 198.51.100.1 was not banned in jail", "nfkeep: 2001:db8::1 was not banned in jail"],
    )
    covered = host.run("unban", "jail", "203.0.113.9", "--json")
    why = "203.0.113.9 is still banned, by 203.0.113.0/24"
    assert (covered.returncode, covered.stderr) == (1, f"nfkeep: {why}\n")
    assert json.loads(covered.stdout) == {
        "list": "jail",
        "backend": "nft",
        "lifted": 1,
        "refused": [{"address": "203.0.113.9", "reason": why}],
    }
    assert host.banned() == ["203.0.113.0/24"]


def test_prudence_and_force(host: Host) -> None:
    """The other end of the SSH session, and everybody, are banned by force only; own addresses not even so."""
    env = {**os.environ, "SSH_CONNECTION": "203.0.113.9 50000 192.0.2.1 22"}
    refused = host.run("ban", "jail", "203.0.113.0/24", "0.0.0.0/0", env=env)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 2)
    forced = host.run("ban", "jail", "203.0.113.0/24", "0.0.0.0/0", "127.0.0.1", "--force", env=env)
    assert forced.returncode == 1
    assert "127.0.0.1 is not banned: it is an address of this host" in forced.stderr
    assert host.banned() == ["0.0.0.0/0", "203.0.113.0/24"]


LISTLESS = [["unban", "jail", "203.0.113.9"], ["bans", "jail"], ["list", "show", "jail"], ["list", "flush", "jail"]]


@pytest.mark.parametrize("arguments", LISTLESS, ids=" ".join)
def test_a_list_that_is_not_there(arguments: list[str], host: Host) -> None:
    """Only `ban` and `list create` make a list; the others name those that there are, with status 1."""
    host.ok("list", "create", "web")
    before = host.rules()
    done = host.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nfkeep: there is no ban list jail; there are: web\n"
    assert host.rules() == before


def test_removing_what_is_not_there(host: Host) -> None:
    """That there was no such list is told, and is no failure."""
    done = host.run("list", "remove", "jail")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nfkeep: there was no ban list jail\n")


@pytest.mark.parametrize("other", ["ipset", "recent"])
def test_no_second_list_of_a_name(other: str, host: Host) -> None:
    """A list is not made in another backend while it is in one; asked for nothing, it is found where it is."""
    host.ok("list", "create", "jail", "--backend", other)
    before = host.rules()
    for arguments in (["ban", "jail", "203.0.113.9"], ["list", "create", "jail"]):
        done = host.run(*arguments, "--backend", "nft")
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"nfkeep: the ban list jail is in {other}, and in nft there would be a second one"
        )
    assert host.rules() == before
    host.ok("ban", "jail", "203.0.113.9")
    assert host.json("bans", "jail")["backend"] == other


def test_a_list_of_recent_that_others_made(host: Host) -> None:
    """Who is in a list of xt_recent for another reason is banned only if that is said."""
    host.namespace.run("iptables-legacy -A INPUT -p tcp -m recent --name seen --set")
    before = host.rules()
    for arguments in (["ban", "seen", "203.0.113.9"], ["list", "create", "seen"]):
        done = host.run(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "made by rules of others" in done.stderr
    for arguments in (["bans", "seen"], ["unban", "seen", "203.0.113.9"]):
        assert host.run(*arguments).stderr == "nfkeep: there is no ban list seen; there are none\n"
    assert host.run("list", "remove", "seen").returncode == 0
    assert host.rules() == before
    assert host.run("ban", "seen", "203.0.113.9", "--backend", "recent").returncode == 0
    assert host.banned("seen") == ["203.0.113.9"]


def test_create_changes_what_a_list_does_and_keeps_its_bans(host: Host) -> None:
    """With options the list does what they say; without any it goes on; the bans stay in both cases."""
    made = host.ok("list", "create", "jail", "--port", "22/tcp")
    assert made.startswith("made jail in nft (this kernel has nf_tables")
    assert made.endswith("): drop 22/tcp\n")
    host.ok("ban", "jail", "203.0.113.9")
    changed = host.ok("list", "create", "jail", "--port", "80/tcp", "--port", "443/tcp", "--reject-with", "tcp-reset")
    assert changed == "kept jail in nft: reject (tcp-reset) 80/tcp 443/tcp\n"
    assert host.ok("list", "create", "jail") == changed
    shown = host.json("list", "show", "jail")
    assert (shown["policy"], shown["in_force"]) == ("reject:tcp-reset 80/tcp 443/tcp", True)
    assert host.json("list", "create", "jail", "--action", "count", "--kill")["policy"] == "count kill"
    assert host.banned() == ["203.0.113.9"]
    assert host.ok("list", "show", "jail").splitlines() == [
        "does      count everything, kill",
        "backend   nft",
        "in force  yes",
        "fill      1 of 131072 in set ban/jail/v4",
        "fill      0 of 131072 in set ban/jail/v6",
    ]


@BACKENDS
def test_looking_mends_nothing_and_creating_mends_all(backend: str, host: Host) -> None:
    """A list without its rules is shown with its bans and said not to be in force, until it is made again."""
    host.ok("list", "create", "jail", "--backend", backend, "--port", "22/tcp")
    host.ok("ban", "jail", "203.0.113.9")
    if backend == "nft":
        host.namespace.run("nft flush chain inet nfkeep input")
    else:
        host.namespace.run("iptables-legacy -t mangle -F INPUT")
    before = host.rules()
    words = "is not in force, as rules of it are missing; to put them back: "
    for arguments in (["bans", "jail"], ["list", "show", "jail"]):
        done = host.run(*arguments)
        assert done.returncode == 0
        assert done.stderr == f"nfkeep: the ban list jail {words}nfkeep list create jail --backend {backend}\n"
    assert host.json("bans", "jail")["in_force"] is False
    assert host.ok("bans").splitlines()[1].split()[-3:] == ["no", "drop", "22/tcp"]
    assert host.rules() == before
    assert host.ok("list", "create", "jail", "--backend", backend) == f"kept jail in {backend}: drop 22/tcp\n"
    assert host.json("bans", "jail")["in_force"] is True
    assert host.banned() == ["203.0.113.9"]


def test_a_time_for_a_whole_list(host: Host) -> None:
    """It is for recent, where bans without one of their own have it and other commands leave it; refused elsewhere."""
    for backend in ("auto", "nft", "ipset"):
        done = host.run("list", "create", "jail", "--for", "1h", "--backend", backend)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "give --for to nfkeep ban instead" in done.stderr
    assert host.rules() == []
    host.ok("list", "create", "jail", "--for", "1h", "--backend", "recent")
    host.ok("ban", "jail", "203.0.113.9", "2001:db8::9")
    host.ok("unban", "jail", "2001:db8::9")
    host.ok("list", "create", "jail", "--port", "22/tcp")
    [ban] = host.json("bans", "jail")["bans"]
    assert (ban["address"], ban["timeout"]) == ("203.0.113.9", 3600.0)
    assert host.json("list", "show", "jail")["timeout"] == 3600.0
    host.ok("list", "create", "jail", "--for", "forever")
    assert host.json("list", "show", "jail")["timeout"] is None


def test_a_list_says_that_it_grows(host: Host) -> None:
    """Every address of a flood of bans goes in, and stderr tells that the list has grown."""
    host.ok("list", "create", "jail", "--size", "8")
    done = host.run("ban", "jail", "-", input="".join(f"203.0.113.{n}\n" for n in range(100)))
    assert done.returncode == 0
    assert done.stderr.startswith("nfkeep: ban list jail: ")
    assert len(host.banned()) == 100


@BACKENDS
def test_the_allow_list(backend: str, host: Host) -> None:
    """Who is allowed is not banned; the list is shown, is taken from, and outlives the ban list."""
    assert host.ok("allow") == "The allow list is empty.\n"
    nowhere = host.run("allow", "192.0.2.1")
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (1, 1)
    host.ok("list", "create", "jail", "--backend", backend, "--allow", "192.0.2.0/24")
    host.ok("allow", "2001:db8::1")
    kept = ["nft"] if backend == "nft" else ["ipset", "recent"]
    assert host.json("allow") == [
        {"address": "192.0.2.0/24", "backends": kept},
        {"address": "2001:db8::1", "backends": kept},
    ]
    refused = host.run("ban", "jail", "192.0.2.77")
    assert refused.stderr == "nfkeep: 192.0.2.77 is not banned: it is in the allow list: 192.0.2.0/24\n"
    wrong = host.run("allow", "198.51.100.1", "nonsense")
    assert (wrong.returncode, wrong.stderr) == (1, f"nfkeep: 'nonsense': {NO_ADDRESS}\n")
    host.ok("list", "remove", "jail")
    assert len(host.json("allow")) == 2
    gone = host.run("allow", "--remove", "192.0.2.0/24", "2001:db8::1", "192.0.2.1")
    assert (gone.returncode, gone.stderr) == (0, "nfkeep: 192.0.2.1 was not in the allow list\n")
    assert host.ok("allow") == "The allow list is empty.\n"
    assert [line for line in host.rules() if "nfkeep" in line] == []


NO_NAMES = {
    "a slash": "a/b",
    "another list's chain": "web/hit",
    "a way up": "../../etc/passwd",
    "a quote": 'a"b',
    "an apostrophe": "a'b",
    "a shell's words": "$(reboot)",
    "a semicolon": "a;flush ruleset",
    "a line break": "web\nflush",
    "nothing": "",
    "a space": " ",
    "a dash": "-web",
    "a dot": ".web",
    "an escape": "\x1b[2J",
    "no ASCII": "wéb",
    "no text": os.fsdecode(b"w\xffb"),
    "too long": "w" * 300,
    "a brace": "{web}",
    "a star": "*",
}
ON_LISTS = [
    ["ban", "NAME", "203.0.113.9"],
    ["unban", "NAME", "203.0.113.9"],
    ["bans", "NAME"],
    ["list", "create", "NAME"],
    ["list", "show", "NAME"],
    ["list", "flush", "NAME"],
    ["list", "remove", "NAME"],
]


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
def test_names_that_cannot_be(name: str, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """No command takes such a name, and the kernel never hears of it."""
    with host.namespace:
        BanList("web").open().close()
        before = host.rules()
        for words in ON_LISTS:
            command = words[: words.index("NAME")]
            rest = [name if word == "NAME" else word for word in words[len(command) :]]
            assert cli.main([*command, "--", *rest]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert err.endswith("\n")
            assert err[:-1].isprintable()
    assert host.rules() == before


def test_a_name_on_the_command_line(host: Host) -> None:
    """It is one word for `nfkeep`, whatever is in it."""
    for name in ('a"b', "web\nflush", os.fsdecode(b"w\xffb"), "-- web"):
        done = host.run("ban", "--", name, "203.0.113.9")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert host.rules() == []


NO_ADDRESSES = [
    *(
        "",
        " ",
        "203.0.113.9 ",
        " 203.0.113.9",
        "203.0.113",
        "203.0.113.256",
        "203.0.113.9.1",
        "0x7f000001",
        "3405803785",
    ),
    *(
        "203.0.113.09",
        "203.0.113.9/33",
        "203.0.113.9/",
        "203.0.113.9/-1",
        "203.0.113.9/24",
        "203.0.113.9/255.255.255.0",
    ),
    *("2001:db8::1::2", "2001:db8::g", "2001:db8::1/129", "2001:db8::1/64", "fe80::1%lo", "[2001:db8::1]", ":", "/24"),
    *("203.0.113.9,203.0.113.10", "203.0.113.1-203.0.113.9", "{ 203.0.113.9 }", "203.0.113.9 timeout 1s", "@web/v4"),
    *("203.0.113.9;flush ruleset", "$(reboot)", "`id`", "203.0.113.9\n203.0.113.10", "\x1b[2J", "٢.0.2.1", "localhost"),
    *("203.0.113.9#", "*", "all", "any", "1" * 9999, os.fsdecode(b"203.0.113.9\xff"), "203.0.113.9\t", "％", "🦊"),
]


def test_addresses_that_cannot_be(host: Host) -> None:
    """Each has its line, which prints as it is, and none of them reaches the kernel."""
    host.ok("list", "create", "web")
    host.ok("ban", "web", "203.0.113.1")
    before = host.rules()
    for command in (["ban", "web"], ["ban", "web", "--comment", "x", "--force"], ["unban", "web"]):
        done = host.run(*command, "--", *NO_ADDRESSES)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == len(NO_ADDRESSES)
        assert all(line.isprintable() and len(line) < 300 for line in done.stderr.splitlines())
    assert host.run("allow", "--", *NO_ADDRESSES).returncode == 1
    assert host.run("allow", "--remove", "--", *NO_ADDRESSES).returncode == 1
    assert host.rules() == before


@pytest.mark.parametrize("comment", ['a"b', "a\\b", "a\nb", "\x1b[2J", "x" * 999])
def test_comments_that_cannot_be(comment: str, host: Host) -> None:
    """A comment that somebody would load again as something else is refused in one line."""
    host.ok("list", "create", "web")
    before = host.rules()
    done = host.run("ban", "web", "203.0.113.9", "203.0.113.10", "--comment", comment)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert host.rules() == before


def test_comments_of_others_only_print(host: Host) -> None:
    """What another program has put into a set does not reach the terminal but as text."""
    host.ok("list", "create", "jail")
    host.namespace.run(
        ["nft", "-f", "-"],
        input='add element inet nfkeep ban/jail/v4 { 203.0.113.9 comment "\x1b[2J\x07" }\n',
    )
    assert host.ok("bans", "jail").splitlines()[1] == r"203.0.113.9  forever    forever  \x1b[2J\x07"


def test_on_a_terminal(host: Host) -> None:
    """A terminal gets drawn tables."""
    host.ok("list", "create", "jail")
    host.ok("ban", "jail", "203.0.113.9")
    for command, row in (("bans jail", "│ 203.0.113.9 │ forever "), ("bans", "│ jail │ nft "), ("doctor", "list jail")):
        shown = host.namespace.run(["script", "-qec", f"stty cols 120; {host.command} {command}", "/dev/null"])
        assert row in shown.stdout


AS_A_PLAIN_USER = """
import importlib, os, sys
from nfkeep.cli import main

for module in sys.argv[1].split(","):  # the interpreter's files may be out of a plain user's reach
    importlib.import_module(module)
main(["bans", "jail"])
main(["doctor"])
main(["ban", "jail", "203.0.113.1"])
main(["unban", "jail", "203.0.113.1"])
sys.stderr.flush()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print("--- plain user", file=sys.stderr, flush=True)
sys.exit(main(sys.argv[2:]))
"""
MODULES = ",".join(f"nfkeep.cli.{name}" for name in ("allow", "banned", "bans", "doctor", "lists"))
FOR_ROOT = {
    "ban": ["ban", "jail", "203.0.113.9"],
    "unban": ["unban", "jail", "203.0.113.9"],
    "bans": ["bans"],
    "bans of a list": ["bans", "jail", "--json"],
    "create": ["list", "create", "web"],
    "remove": ["list", "remove", "jail"],
    "allow": ["allow"],
    "doctor": ["doctor"],
}


@pytest.mark.parametrize("arguments", FOR_ROOT.values(), ids=FOR_ROOT)
def test_as_a_plain_user(arguments: list[str], host: Host, tmp_path: Path) -> None:
    """Without rights a command says in one line what it needs, with status 1."""
    host.ok("list", "create", "jail")
    before = host.rules()
    script = tmp_path / "as_a_plain_user.py"
    script.write_text(AS_A_PLAIN_USER)
    done = host.namespace.run([sys.executable, str(script), MODULES, *arguments], check=False)
    told = done.stderr.partition("--- plain user\n")[2]
    assert done.returncode == 1
    assert len(told.splitlines()) == 1, done.stderr
    assert told.startswith("nfkeep: ")
    assert "permission denied; this needs root" in told
    assert host.rules() == before


def test_two_at_once(host: Host, nfkeep: str) -> None:
    """Several commands that make the same list end well, and every ban is in."""
    processes = [host.namespace.popen([nfkeep, "ban", "jail", f"203.0.113.{n}"]) for n in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert host.banned() == [f"203.0.113.{n}" for n in range(8)]
