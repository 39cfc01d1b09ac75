"""`nfkeep run`, `hold`, `release` and `recover` as a user meets them: words, JSON, exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from nfkeep.testing import wait_until
from nfkeep.xtables.lock import XtablesLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

LISTS = (
    "-m recent --name seen --set",
    "-m hashlimit --hashlimit-name web --hashlimit-above 5/min --hashlimit-mode srcip -j DROP",
    "-j RATEEST --rateest-name up --rateest-interval 250ms --rateest-ewmalog 500ms",
)

QUOTA_HALF_USED = "iptables-legacy -A INPUT -p udp -m quota --quota 100000 -j ACCEPT -c 50 50000"


class Run(Protocol):
    """Called with the arguments of `nfkeep`."""

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What came of it."""


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Whatever these tests were started by, as nohup, their own processes do not ignore signals."""
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def run(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`nfkeep` in a namespace with a list of each kind, in both families for `seen`."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    for rule in LISTS:
        namespace.run(f"iptables-legacy -A INPUT -p udp {rule}")
    namespace.run(f"ip6tables-legacy -A INPUT -p udp {LISTS[0]}")

    def nfkeep(*arguments: str) -> subprocess.CompletedProcess[str]:
        return namespace.run([sys.executable, "-m", "nfkeep.cli", *arguments], check=False, env=dict(os.environ))

    return nfkeep


def hold_rules(namespace: Namespace) -> int:
    """How many rules hold something."""
    saved = namespace.run("iptables-legacy-save").stdout + namespace.run("ip6tables-legacy-save").stdout
    return saved.count("-A nfkeep-hold")


def test_hold_and_release(run: Run, namespace: Namespace) -> None:
    """Each family that names a list gets a hold; the list outlives its rules, until the hold is released."""
    done = run("hold", "recent:seen", "hashlimit:web", "rateest:up")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "held: IPv4 recent:seen",
        "held: IPv4 hashlimit:web",
        "held: IPv4 rateest:up",
        "held: IPv6 recent:seen",
    ]
    assert hold_rules(namespace) == 4
    for command in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run(f"{command} -F INPUT")
    seen = ["cat", "/proc/thread-self/net/xt_recent/seen"]
    assert namespace.run(seen, check=False).returncode == 0

    done = run("release", "recent:seen")
    assert done.stdout.splitlines() == ["released: IPv4 recent:seen", "released: IPv6 recent:seen"]
    assert namespace.run(seen, check=False).returncode != 0
    assert hold_rules(namespace) == 2

    done = run("release", "--json")
    assert done.returncode == 0
    assert sorted(json.loads(done.stdout), key=lambda each: str(each["kind"])) == [
        {"family": "IPv4", "kind": "hashlimit", "name": "web"},
        {"family": "IPv4", "kind": "rateest", "name": "up"},
    ]
    assert hold_rules(namespace) == 0
    assert run("release").stdout == "nothing is held\n"
    assert json.loads(run("release", "--json").stdout) == []


def test_to_hold_twice_holds_once(run: Run, namespace: Namespace) -> None:
    """The second time says the same and changes nothing."""
    first, second = run("hold", "recent:seen", "--json"), run("hold", "--json", "recent:seen")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert json.loads(first.stdout) == [
        {"family": family, "kind": "recent", "name": "seen"} for family in ("IPv4", "IPv6")
    ]
    assert hold_rules(namespace) == 2


FAILS = {
    "a list that no rule names": (["hold", "recent:nosuch"], "no rule of a legacy table names recent:nosuch"),
    "a kind that cannot be held": (["hold", "quota:x"], "quota:x: only recent, hashlimit, rateest and idletimer"),
    "one of two": (["hold", "recent:seen", "recent:nosuch"], "recent:nosuch"),
    "what is not held": (["release", "recent:seen"], "recent:seen is not held"),
}


@pytest.mark.parametrize(("arguments", "words"), FAILS.values(), ids=FAILS)
def test_what_cannot_be_is_told_in_a_line(run: Run, namespace: Namespace, arguments: list[str], words: str) -> None:
    """Exit status 1, one line on stderr, and nothing is changed."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("nfkeep: ")
    assert words in done.stderr
    assert hold_rules(namespace) == 0


WRONG = {
    "nothing to hold": ["hold"],
    "a name without its kind": ["hold", "seen"],
    "a kind without a name": ["hold", "recent:"],
    "a name without its kind, to release": ["release", "seen"],
    "an option that is none": ["recover", "--jsn"],
    "an argument too many": ["recover", "now"],
    "nothing to run": ["run"],
    "nothing to run behind the dashes": ["run", "--"],
    "an option of ours that is none": ["run", "--jsn", "touch", "ran"],
    "a report that cannot be written": ["run", "--json", "no such directory/report", "touch", "ran"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_usage(run: Run, namespace: Namespace, tmp_path: Path, arguments: list[str]) -> None:
    """Exit status 2, words on stderr, nothing is changed, and no COMMAND is run."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Usage: nfkeep ")
    assert hold_rules(namespace) == 0
    assert not (tmp_path / "ran").exists()


def test_nothing_to_recover(run: Run) -> None:
    """Where nothing was left behind it says so; as JSON that is the empty list."""
    done = run("recover")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing was left behind\n", "")
    assert json.loads(run("recover", "--json").stdout) == []


KILLED = 128 + signal.SIGKILL
STATUSES = {
    "done": (["true"], 0),
    "failed": (["sh", "-c", "exit 42"], 42),
    "killed": (["sh", "-c", "kill -KILL $$"], KILLED),
    "terminated": (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
    "not found": (["nosuchcommand"], 127),
    "no program": (["/"], 126),
}


@pytest.mark.parametrize(("command", "status"), STATUSES.values(), ids=STATUSES)
def test_status_of_the_command(run: Run, command: list[str], status: int) -> None:
    """As a shell has it; a line says where nothing could be run."""
    done = run("run", "--", *command)
    assert done.returncode == status
    assert (done.stderr != "") == (status in (126, 127))
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize("dashes", [["--"], []], ids=["with --", "without"])
def test_arguments_of_the_command_are_its_own(run: Run, dashes: list[str]) -> None:
    """Whatever looks like an option of ours behind COMMAND goes to it, `--` included; stdin and stdout are its own."""
    arguments = ["--json", "x", "--help", "--", "-x", "two words", ""]
    done = run("run", *dashes, "printf", "[%s]", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"[{each}]" for each in arguments)


def test_a_report_as_json(run: Run, namespace: Namespace, tmp_path: Path) -> None:
    """It goes to the file; stderr has a line for each state that something had to be done about."""
    namespace.run("iptables-legacy -A INPUT -p udp -m quota --quota 100000 -j ACCEPT")
    done = run("run", "--json", "report", "--", "iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "nfkeep: quota at IPv4 filter INPUT rule 4: restored (100000 of 100000 bytes are left)\n"
    report = json.loads((tmp_path / "report").read_text())
    found = {each["kind"]: each["fidelity"] for each in report["outcomes"]}
    assert found["quota"] == "restored"
    assert found["recent"] == "survives"
    assert report["gate_seconds"] == 0.0


def test_a_report_that_has_no_room(run: Run, namespace: Namespace) -> None:
    """The status stays that of COMMAND; what became of the state is told, and that the report is not written."""
    namespace.run(QUOTA_HALF_USED)
    script = "iptables-legacy -A INPUT -s 192.0.2.1 -j DROP; exit 5"
    done = run("run", "--json", "/dev/full", "sh", "-c", script)
    assert done.returncode == 5
    told, last = done.stderr.splitlines()
    assert told.startswith("nfkeep: quota at IPv4 filter INPUT rule 4: restored (50000")
    assert last == "nfkeep: the report cannot be written to /dev/full: No space left on device"


def test_a_report_of_nothing(run: Run, tmp_path: Path) -> None:
    """Where nothing was changed the report is empty and stderr too."""
    done = run("run", "--json", "report", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "report").read_text()) == {"outcomes": [], "gate_seconds": 0.0}


def test_interrupted_the_command_decides(run: Run, namespace: Namespace, tmp_path: Path) -> None:
    """Ctrl-C goes to COMMAND, which may finish its work; its tables keep their state."""
    del run  # for what it has prepared
    script = "trap 'iptables-legacy -F; exit 5' INT; touch ready; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "nfkeep.cli", "run", "sh", "-c", script]
    with namespace.popen(["setsid", *command], stderr=-1, env=dict(os.environ)) as process:
        assert wait_until((tmp_path / "ready").exists, timeout=10.0)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 5
        assert process.stderr is not None
        assert "recent at IPv4 seen: held (" in process.stderr.read()
    assert hold_rules(namespace) == 2  # an estimator is not held while others change rules


ENDS = {
    "SIGTERM": ("touch ready; exec sleep 60", signal.SIGTERM, 128 + signal.SIGTERM),
    "SIGHUP": ("touch ready; exec sleep 60", signal.SIGHUP, 128 + signal.SIGHUP),
    "SIGTERM, which the command handles": (
        "trap 'exit 5' TERM; touch ready; while :; do sleep 0.05; done",
        signal.SIGTERM,
        5,
    ),
}
SLOW = """
import os, subprocess, sys, time
import nfkeep
from nfkeep.cli import main
from nfkeep.keep import keeping

put_back = keeping.put_back

def slowly(*arguments, **options):
    open("putting", "w").close()
    while not os.path.exists("go on"):
        time.sleep(0.01)
    return put_back(*arguments, **options)

keeping.put_back = slowly
command = ["iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1"]
"""
ENDED = {
    "nfkeep run": (
        "sys.exit(main(['run', *command]))",
        dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), 0),
    ),
    "in Python": (
        "with nfkeep.keep():\n    subprocess.run(command)",
        {each: -each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
    ),
}


@pytest.mark.parametrize(("rest", "number", "status"), ENDS.values(), ids=ENDS)
def test_told_to_end(run: Run, namespace: Namespace, tmp_path: Path, rest: str, number: int, status: int) -> None:
    """The command is told too; once it has ended, its tables keep their state and nothing is left behind."""
    del run  # for what it has prepared
    namespace.run(QUOTA_HALF_USED)
    script = f"iptables-legacy -A INPUT -s 192.0.2.1 -j DROP; {rest}"
    command = [sys.executable, "-m", "nfkeep.cli", "run", "sh", "-c", script]
    with namespace.popen(command, stderr=-1, env=dict(os.environ)) as process:
        assert wait_until((tmp_path / "ready").exists, timeout=10.0)
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stderr is not None
        assert "restored (50000 of 100000 bytes are left" in process.stderr.read()
    assert not list(tmp_path.glob("run/*/change-*"))
    assert hold_rules(namespace) == 0


def test_told_to_end_before_the_command(run: Run, namespace: Namespace, tmp_path: Path) -> None:
    """While another program has the lock, nothing is run yet: then nothing is at all, and no hold stays."""
    del run
    command = [sys.executable, "-m", "nfkeep.cli", "run", "touch", "ran"]
    with XtablesLock() as lock, namespace.popen(command, env=dict(os.environ)) as process:
        assert wait_until(lambda: opened(process.pid, lock.path), timeout=10.0)
        process.send_signal(signal.SIGTERM)
        lock.release()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not (tmp_path / "ran").exists()
    assert hold_rules(namespace) == 0


def opened(pid: int, path: str) -> bool:
    """Whether a process has that file open."""
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it has been closed meanwhile
            if os.readlink(each) == path:
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize(("script", "statuses"), ENDED.values(), ids=ENDED)
def test_a_signal_behind_the_command(
    run: Run, namespace: Namespace, tmp_path: Path, script: str, statuses: dict[int, int], number: signal.Signals
) -> None:
    """Signals do not break off that the state is put back; they take effect behind it, if at all."""
    del run
    namespace.run(QUOTA_HALF_USED)
    command = [sys.executable, "-c", SLOW + script]
    with namespace.popen(command, stderr=-1, env=dict(os.environ)) as process:
        try:
            assert wait_until((tmp_path / "putting").exists, timeout=10.0)
            assert wait_until(lambda: waits_for_its_thread(process.pid), timeout=10.0)
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        finally:
            (tmp_path / "go on").touch()
        assert process.wait(20) == statuses[number]
    assert "--quota 50000" in namespace.run("iptables-legacy -S").stdout
    assert not list(tmp_path.glob("run/*/change-*"))
    assert hold_rules(namespace) == 0


def waits_for_its_thread(pid: int) -> bool:
    """Whether the main thread of a process, whose command has ended, sleeps."""
    ended = not Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return ended and "State:\tS" in Path(f"/proc/{pid}/task/{pid}/status").read_text()
