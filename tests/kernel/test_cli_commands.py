"""`nfkeep iptables` and `nfkeep show` as processes of their own, on a gateway with a limit and real connections."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from nfkeep.model import Family
from nfkeep.testing import close_all, living
from nfkeep.xtables.lock import XtablesLock

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from nfkeep.testing import Gateway, Namespace
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory

pytestmark = pytest.mark.kernel

LIMIT = "-p tcp --syn --dport 873 -m connlimit --connlimit-above 10 -j REJECT --reject-with tcp-reset"
RESTORED = "nfkeep: connlimit at {0} filter INPUT rule 1: restored (10 live flows counted again)\n"


class Run(Protocol):
    """Called with the arguments of `nfkeep`."""

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """What came of it."""


@pytest.fixture
def nfkeep(tmp_path: Path) -> str:
    """The command `nfkeep`. A script and not `python -m`, which would prefer a checkout in the current directory."""
    script = tmp_path / "nfkeep"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom nfkeep.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def run_in(nfkeep: str) -> Callable[[Namespace], Run]:
    """`run_in(namespace)` gives `run(*arguments)`."""

    def make(namespace: Namespace) -> Run:
        def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
            return namespace.run([nfkeep, *arguments], check=False, env={**os.environ, **(env or {})})

        return run

    return make


@pytest.fixture
def run(gateway: Gateway, run_in: Callable[[Namespace], Run]) -> Run:
    """`nfkeep` on the gateway."""
    return run_in(gateway.gateway)


@pytest.mark.parametrize(
    ("family", "command", "banned"),
    [(Family.IPV4, "iptables", "192.0.2.1"), (Family.IPV6, "ip6tables", "2001:db8::1")],
    ids=["IPv4", "IPv6"],
)
def test_an_unrelated_rule(
    family: Family,
    command: str,
    banned: str,
    gateway: Gateway,
    run: Run,
    echo_server: EchoServerFactory,
    dialer: Dialer,
) -> None:
    """After `nfkeep iptables -A …` nobody gets in over the limit, the old ones live, and three new replace three."""
    gateway.gateway.run(f"{command}-legacy -A INPUT {LIMIT}")
    address = gateway.gateway_address(family)
    echo_server(gateway.gateway, family, "tcp", address, 873)
    old = dialer(gateway.client, family, "tcp", address, 873, 14)
    assert len(old) == 10

    done = run(command, "-A", "INPUT", "-s", banned, "-j", "DROP")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", RESTORED.format(family))
    assert dialer(gateway.client, family, "tcp", address, 873, 14) == []
    assert living(old) == old
    close_all(old[:3])
    time.sleep(0.05)  # connlimit looks for closed connections once per tick of the kernel, at most
    assert len(dialer(gateway.client, family, "tcp", address, 873, 14)) == 3


IPTABLES_SAYS = {
    "an option that is none": ["--nonsense"],
    "no arguments": [],
    "an argument missing": ["-A", "INPUT", "-j"],
    "an extension's own words": ["-A", "INPUT", "-p", "tcp", "--dport", "nosuchport"],
    "no such chain": ["-A", "nosuchchain", "-j", "DROP"],
    "no such rule": ["-D", "INPUT", "-s", "192.0.2.1", "-j", "DROP"],
    "no such table": ["-t", "nosuchtable", "-L"],
    "its help": ["-h"],
    "its long help": ["--help"],
    "an extension's help": ["-m", "connlimit", "--help"],
    "its version": ["--version"],
    "a listing": ["-S"],
    "a check": ["-C", "INPUT", "-s", "192.0.2.2", "-j", "DROP"],
    "the end of options": ["-S", "--", "INPUT"],
    "options before it": ["-t", "filter", "-n", "-L", "INPUT", "1"],
    "inversion": ["-A", "INPUT", "!", "-s", "192.0.2.7", "-p", "udp", "-j", "ACCEPT"],
    "a comment": ["-A", "INPUT", "-m", "comment", "--comment", "two words, 'quotes' and --json", "-j", "ACCEPT"],
}


@pytest.mark.parametrize("arguments", IPTABLES_SAYS.values(), ids=IPTABLES_SAYS)
def test_all_arguments_go_to_iptables(
    arguments: list[str], namespace: Namespace, run_in: Callable[[Namespace], Run]
) -> None:
    """Output, errors, status and effect are those of iptables, whatever the arguments."""
    rule = "INPUT -s 192.0.2.2 -j DROP"
    namespace.run(f"iptables-legacy -A {rule}")
    kept = run_in(namespace)("iptables", *arguments)
    kept_rules = namespace.run("iptables-legacy -S").stdout
    namespace.run("iptables-legacy -F")
    namespace.run(f"iptables-legacy -A {rule}")
    plain = namespace.run(["iptables-legacy", *arguments], check=False)
    plain_rules = namespace.run("iptables-legacy -S").stdout
    # the words name the program as it was called
    assert kept.stdout.replace("iptables-legacy", "iptables") == plain.stdout.replace("iptables-legacy", "iptables")
    assert kept.stderr.replace("iptables-legacy", "iptables") == plain.stderr.replace("iptables-legacy", "iptables")
    assert (kept.returncode, kept_rules) == (plain.returncode, plain_rules)


def test_a_refused_change_touches_nothing(
    gateway: Gateway, run: Run, echo_server: EchoServerFactory, dialer: Dialer
) -> None:
    """Where iptables refuses, only iptables speaks: no count was reset, so no connection has to be counted again."""
    gateway.gateway.run(f"iptables-legacy -A INPUT {LIMIT}")
    address = gateway.gateway_address(Family.IPV4)
    echo_server(gateway.gateway, Family.IPV4, "tcp", address, 873)
    old = dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14)
    refused = ["-A", "INPUT", "-p", "tcp", "--dport", "nosuchport"]
    plain = gateway.gateway.run(["iptables-legacy", *refused], check=False)
    done = run("iptables", *refused)
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    assert done.stderr.replace("iptables-legacy", "iptables") == plain.stderr.replace("iptables-legacy", "iptables")
    assert dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14) == []
    assert living(old) == old


def test_a_report_as_json(namespace: Namespace, tmp_path: Path, run_in: Callable[[Namespace], Run]) -> None:
    """NFKEEP_REPORT names a file that gets the report, an empty one where nothing had to be done."""
    run = run_in(namespace)
    file = tmp_path / "report.json"
    namespace.run(f"iptables-legacy -A INPUT {LIMIT}")
    assert run("iptables", "-A", "INPUT", "-j", "ACCEPT", env={"NFKEEP_REPORT": str(file)}).returncode == 0
    report = json.loads(file.read_text())
    assert [(o["kind"], o["where"], o["fidelity"]) for o in report["outcomes"]] == [
        ("connlimit", "IPv4 filter INPUT rule 1", "restored")
    ]
    assert report["gate_seconds"] > 0
    assert run("iptables", "-S", env={"NFKEEP_REPORT": str(file)}).returncode == 0
    assert json.loads(file.read_text()) == {"outcomes": [], "gate_seconds": 0.0}


def test_a_report_that_cannot_be_written(
    namespace: Namespace, tmp_path: Path, run_in: Callable[[Namespace], Run]
) -> None:
    """Where the file for the report cannot be opened, nothing is changed and the status is 1."""
    namespace.run(f"iptables-legacy -A INPUT {LIMIT}")
    file = tmp_path / "no such directory" / "report.json"
    done = run_in(namespace)("iptables", "-F", env={"NFKEEP_REPORT": str(file)})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert str(file) in done.stderr
    assert "connlimit" in namespace.run("iptables-legacy -S").stdout


QUOTA = "-p udp --dport 9 -m quota --quota 100000 -j ACCEPT"
IN_DOUBT = {
    "a comment like a table": ["-A", "FORWARD", "-m", "comment", "--comment", "-temporary", "-j", "DROP"],
    "a prefix like a table": ["-A", "FORWARD", "-j", "LOG", "--log-prefix", "-t "],
    "a comment like another table": ["-A", "FORWARD", "-m", "comment", "--comment", "-tmangle", "-j", "DROP"],
    "a table behind a flag": ["-A", "FORWARD", "-p", "tcp", "--syn", "-t", "mangle"],
    "equal rules, in doubt": ["-R", "INPUT", "2", "-p", "tcp", "--dport", "80", "--syn", "-t", "filter"],
}


@pytest.mark.parametrize("arguments", IN_DOUBT.values(), ids=IN_DOUBT)
def test_where_the_table_is_in_doubt(
    arguments: list[str], gateway: Gateway, run: Run, echo_server: EchoServerFactory, dialer: Dialer
) -> None:
    """What looks like the table may be the value of an option: then either may change, and keeps its state."""
    for rule in (LIMIT, "-p tcp --dport 80 --syn"):
        gateway.gateway.run(f"iptables-legacy -A INPUT {rule}")
    for table in ("filter", "mangle"):
        gateway.gateway.run(f"iptables-legacy -t {table} -A INPUT {QUOTA} -c 40 40000")
    address = gateway.gateway_address(Family.IPV4)
    echo_server(gateway.gateway, Family.IPV4, "tcp", address, 873)
    old = dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14)
    assert run("iptables", *arguments).returncode == 0
    assert dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14) == []
    assert living(old) == old
    changed, other = ("mangle", "filter") if arguments[-2:] == ["-t", "mangle"] else ("filter", "mangle")
    assert "--quota 60000" in gateway.gateway.run(f"iptables-legacy -t {changed} -S").stdout
    assert "--quota 100000" in gateway.gateway.run(f"iptables-legacy -t {other} -S").stdout  # left alone


def test_a_report_that_has_no_room(namespace: Namespace, run_in: Callable[[Namespace], Run]) -> None:
    """The change is made, so the status is that of iptables; what became of the state is told, and so is the file."""
    namespace.run(f"iptables-legacy -A INPUT {QUOTA} -c 50 50000")
    done = run_in(namespace)("iptables", "-A", "INPUT", "-j", "DROP", env={"NFKEEP_REPORT": "/dev/full"})
    assert (done.returncode, done.stdout) == (0, "")
    told, last = done.stderr.splitlines()
    assert told.startswith("nfkeep: quota at IPv4 filter INPUT rule 1: restored (50000")
    assert last == "nfkeep: the report cannot be written to /dev/full: No space left on device"


FULL = """
mkdir bin run
mount -t tmpfs -o size=32k,mode=700 none run
cat > bin/iptables-legacy <<'END'
#!/bin/sh
{0} "$@"; status=$?
cat /dev/zero > "$FILLED" 2> /dev/null
exit $status
END
chmod +x bin/iptables-legacy
ln -s iptables-legacy bin/iptables
[ "$1" != before ] || cat /dev/zero > run/full 2> /dev/null
shift
FILLED=$PWD/run/full NFKEEP_RUN_DIRECTORY=$PWD/run PATH=$PWD/bin:$PATH "$@"; status=$?
rm run/full; find run -type f >&2
exit $status
"""


def test_a_run_directory_that_is_full(gateway: Gateway, nfkeep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      echo_server: EchoServerFactory, dialer: Dialer) -> None:  # fmt: skip
    """From the beginning: nothing is changed. From the middle on: the state is put back, and doubts are told."""
    monkeypatch.chdir(tmp_path)
    script = FULL.format(shutil.which("iptables-legacy"))
    gateway.gateway.run(f"iptables-legacy -A INPUT {LIMIT}")
    gateway.gateway.run(f"iptables-legacy -A INPUT {QUOTA} -c 50 50000")
    address = gateway.gateway_address(Family.IPV4)
    echo_server(gateway.gateway, Family.IPV4, "tcp", address, 873)
    old = dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14)

    def run(moment: str) -> subprocess.CompletedProcess[str]:
        shell = ["unshare", "-m", "sh", "-c", script, "sh", moment]
        done = gateway.gateway.run([*shell, nfkeep, "iptables", "-A", "INPUT", "-j", "ACCEPT"], check=False)
        shutil.rmtree(tmp_path / "bin")
        (tmp_path / "run").rmdir()
        return done

    before = run("before")
    assert before.returncode == 1
    assert re.fullmatch(rf"nfkeep: {tmp_path}/run/\S+ cannot be written: No space left on device\n", before.stderr)
    assert "-A INPUT -j ACCEPT" not in gateway.gateway.run("iptables-legacy -S").stdout

    meanwhile = run("meanwhile")
    assert meanwhile.returncode == 0, meanwhile.stderr
    connlimit, quota = meanwhile.stderr.splitlines()
    assert connlimit + "\n" == RESTORED.format(Family.IPV4)
    assert quota.startswith("nfkeep: quota at IPv4 filter INPUT rule 2: approximated (")
    assert quota.endswith("cannot be written: No space left on device)")
    assert "--quota 50000" in gateway.gateway.run("iptables-legacy -S").stdout
    assert dialer(gateway.client, Family.IPV4, "tcp", address, 873, 14) == []
    assert living(old) == old


@pytest.mark.parametrize("wait", [["-w", "1"], ["-w1"], ["--wait=1"]], ids=" ".join)
def test_a_lock_that_stays_taken(
    wait: list[str], namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    run_in: Callable[[Namespace], Run],
) -> None:  # fmt: skip
    """`-w` says for how long to wait; then words and status are those of iptables."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    namespace.run(f"iptables-legacy -A INPUT {LIMIT}")
    with XtablesLock():
        plain = namespace.run(["iptables-legacy", *wait, "-F"], check=False, env=dict(os.environ))
        done = run_in(namespace)("iptables", *wait, "-F")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (4, "")
    assert done.stderr == "Another app is currently holding the xtables lock. Stopped waiting after 1s.\n"
    assert plain.stderr.endswith(done.stderr)
    assert "connlimit" in namespace.run("iptables-legacy -S").stdout


def test_what_is_not_kept_is_told(namespace: Namespace, run_in: Callable[[Namespace], Run]) -> None:
    """What is not kept is told with its reason; what survives by itself is not mentioned."""
    namespace.run("iptables-legacy -A INPUT -p udp -m limit --limit 5/min -j ACCEPT")
    namespace.run("iptables-legacy -A INPUT -p udp -m recent --name seen --set")
    done = run_in(namespace)("iptables", "-A", "INPUT", "-j", "ACCEPT")
    assert done.returncode == 0
    assert done.stderr.startswith("nfkeep: limit at IPv4 filter INPUT rule 1: approximated (the bucket is full again")
    assert len(done.stderr.splitlines()) == 1


def test_show(gateway: Gateway, run: Run, echo_server: EchoServerFactory, dialer: Dialer) -> None:
    """Each state has a line with its place, its content, and the word for what a change does to it."""
    for rule in (LIMIT, "-p udp -m recent --name seen --set", "-p udp -m limit --limit 5/min -j ACCEPT"):
        gateway.gateway.run(f"iptables-legacy -A INPUT {rule}")
    address = gateway.gateway_address(Family.IPV4)
    echo_server(gateway.gateway, Family.IPV4, "tcp", address, 873)
    dialer(gateway.client, Family.IPV4, "tcp", address, 873, 3)

    shown = run("show")
    assert (shown.returncode, shown.stderr) == (0, "")
    heading, *lines = shown.stdout.splitlines()
    at = [heading.index(word) for word in ("STATE", "WHERE", "CONTENT", "ON A CHANGE")]
    rows = [[line[a:b].strip() for a, b in zip(at, [*at[1:], None], strict=True)] for line in lines]
    assert rows[0] == ["connlimit", "IPv4 filter INPUT rule 1", "3 live flows, limit 10 per source /32", "restored"]
    assert {row[0]: row[3].split(":")[0] for row in rows} == {
        "connlimit": "restored",
        "limit": "approximated",
        "recent": "survives",
    }

    states = json.loads(run("show", "--json").stdout)
    assert [[s["kind"], s["where"], s["content"], s["on_change"]] for s in states] == [
        [*row[:3], row[3].split(":")[0]] for row in rows
    ]
    assert all(set(s) == {"kind", "where", "content", "on_change", "detail"} for s in states)


def test_show_on_a_terminal(gateway: Gateway, nfkeep: str) -> None:
    """A terminal gets a drawn table."""
    gateway.gateway.run(f"iptables-legacy -A INPUT {LIMIT}")
    command = f"stty cols 120; {nfkeep} show"
    shown = gateway.gateway.run(["script", "-qec", command, "/dev/null"])
    assert "│ connlimit │ IPv4 filter INPUT rule 1 │" in shown.stdout


def test_show_where_there_is_nothing(namespace: Namespace, run_in: Callable[[Namespace], Run]) -> None:
    """No tables, and tables without state, are told apart; as JSON both are the empty list."""
    run = run_in(namespace)
    assert run("show").stdout == "There are no legacy iptables tables here.\n"
    assert json.loads(run("show", "--json").stdout) == []
    namespace.run("iptables-legacy -A INPUT -j ACCEPT")
    done = run("show")
    assert done.stdout == "The legacy iptables tables here hold no state that a rule change could lose.\n"
    assert done.returncode == 0
    assert json.loads(run("show", "--json").stdout) == []


def test_a_reader_that_leaves(gateway: Gateway, nfkeep: str) -> None:
    """`nfkeep show | true` ends without a traceback."""
    gateway.gateway.run(f"iptables-legacy -A INPUT {LIMIT}")
    done = gateway.gateway.run(["sh", "-c", f"{nfkeep} show | true"])
    assert done.stderr == ""


AS_A_PLAIN_USER = """
import importlib, os, sys
from nfkeep.cli import main

arguments = sys.argv[2:]
for module in sys.argv[1].split(","):  # the interpreter's files may be out of a plain user's reach
    importlib.import_module(module)
if arguments[0] == "show":
    main(arguments)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print("--- plain user", flush=True)
sys.exit(main(arguments))
"""
MODULES = "nfkeep.cli.commands,nfkeep.cli.demo,nfkeep.cli.iptables,nfkeep.cli.show"


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["demo"], ["demo", "--json"]], ids=" ".join)
def test_as_a_plain_user(arguments: list[str], namespace: Namespace, tmp_path: Path) -> None:
    """Without rights a command says in one line what it needs, with status 1."""
    namespace.run(f"iptables-legacy -A INPUT {LIMIT}")
    script = tmp_path / "as_a_plain_user.py"
    script.write_text(AS_A_PLAIN_USER)
    done = namespace.run([sys.executable, str(script), MODULES, *arguments], check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("nfkeep: ")
    assert "this needs root" in done.stderr


def test_iptables_as_a_plain_user(namespace: Namespace, tmp_path: Path) -> None:
    """`nfkeep iptables` without rights changes nothing and says so in one line, its own or that of iptables."""
    namespace.run(f"iptables-legacy -A INPUT {LIMIT}")
    script = tmp_path / "as_a_plain_user.py"
    script.write_text(AS_A_PLAIN_USER)
    done = namespace.run([sys.executable, str(script), MODULES, "iptables", "-F"], check=False)
    assert done.returncode not in (0, 2)
    assert "Traceback" not in done.stderr
    assert "ermission denied" in done.stderr
    assert "connlimit" in namespace.run("iptables-legacy -S").stdout
