"""`nfkeep run` and `nfkeep.keep()`: state kept while other programs change the tables, with real connections."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from limited import LIMIT, Service, Shape, assert_count_kept

import nfkeep
from nfkeep import Family, Fidelity, NfkeepError, Report
from nfkeep.keep import holding, keeping
from nfkeep.testing import living, wait_until
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.watch import Mode, TableWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

INPUT = Shape("IPv4 TCP INPUT")
INPUT6 = Shape("IPv6 TCP INPUT", Family.IPV6)
NAT = Shape("IPv4 TCP FORWARD, DNAT and MASQUERADE", chain="FORWARD", nat=True, condition="-i cli0")
UDP = Shape("IPv4 UDP INPUT", kind="udp")
NEW = Shape("IPv4 TCP INPUT, ctstate NEW", condition="-i cli0 -m conntrack --ctstate NEW")

Start = "Callable[..., Service]"


@attrs.frozen
class Runner:
    """`nfkeep run`, with a lock and a run directory of this test alone."""

    folder: Path

    @property
    def run_directory(self) -> Path:
        return self.folder / "run"

    def run(self, where: Namespace, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script under it; $F is a folder for files."""
        command = [sys.executable, "-m", "nfkeep.cli", "run", "--json", str(self.folder / "report"), "--"]
        environment = {**os.environ, "F": str(self.folder), "NFKEEP": f"{sys.executable} -m nfkeep.cli"}
        return where.run([*command, "sh", "-ec", script], check=check, env=environment)

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Fidelity and detail of each kind, as the last run reported them."""
        outcomes = json.loads((self.folder / "report").read_text())["outcomes"]
        return {one["kind"]: (one["fidelity"], one["detail"]) for one in outcomes}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Also this process and what it starts use the private lock and run directory."""
    runner = Runner(tmp_path)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(runner.run_directory))
    return runner


def scripts(shape: Shape) -> dict[str, str]:
    """Ways to change the tables, none of which changes the limit in the end."""
    command, family = shape.iptables, "-4" if shape.family is Family.IPV4 else "-6"
    chain, unrelated = shape.chain, shape.unrelated
    return {
        "the same rules restored": f"{command}-save > $F/rules; {command}-restore < $F/rules",
        "the same rules restored with counters": f"{command}-save -c > $F/rules; {command}-restore -c < $F/rules",
        "flushed, and restored a while later": f"{command}-save > $F/rules; {command} -F; sleep 0.3;"
        f" {command}-restore < $F/rules",
        "an unrelated rule": f"{command} -A {chain} {unrelated}",
        "an unrelated rule put in, the table zeroed, and the rule deleted": f"{command} -I {chain} {unrelated};"
        f" {command} -Z; {command} -D {chain} {unrelated}",
        "our own command inside": f"$NFKEEP ip{'6' if family == '-6' else ''}tables -A {chain} {unrelated}",
        "our own command between others": f"{command} -A {chain} {unrelated};"
        f" $NFKEEP ip{'6' if family == '-6' else ''}tables -A {chain} {unrelated}; {command} -A {chain} {unrelated}",
        "several writers at once": f"for i in 1 2 3 4 5 6; do {command} -w -A {chain} {unrelated} & done; wait",
    }


CASES = [
    *((INPUT, name) for name in scripts(INPUT)),
    *((shape, name) for shape in (INPUT6, NAT) for name in [*[*scripts(INPUT)][:4], "our own command inside"]),
    *((shape, "flushed, and restored a while later") for shape in (UDP, NEW)),
]


@pytest.mark.parametrize(("shape", "way"), CASES, ids=str)
def test_count_survives_what_others_do(start_service: Start, runner: Runner, shape: Shape, way: str) -> None:
    """Whatever COMMAND does to the table, the count is there when it has ended, and nothing is left behind."""
    service = start_service(shape)
    assert_count_kept(service, lambda: runner.run(service.gateway, scripts(shape)[way]))
    assert runner.outcomes()["connlimit"][0] == Fidelity.RESTORED.value
    assert not runner.run_directory.exists()
    assert "nfkeep" not in service.gateway.run("nft list tables").stdout


@pytest.mark.parametrize("shape", [INPUT, INPUT6, NAT], ids=str)
def test_without_nfkeep_more_get_in(start_service: Start, tmp_path: Path, shape: Shape) -> None:
    """The fault itself: restoring the same rules forgets the count. If this fails, those above prove nothing."""
    service = start_service(shape)
    assert len(service.dial()) == LIMIT
    script = scripts(shape)["the same rules restored"]
    service.gateway.run(["sh", "-ec", script], env={**os.environ, "F": str(tmp_path)})
    assert len(service.dial()) == LIMIT


HARMLESS = {
    "changes nothing": ("true", 0),
    "fails": ("exit 7", 7),
    "takes a second": ("sleep 1", 0),
    "lists the rules": ("iptables-legacy -L > /dev/null", 0),
    "is refused by iptables": ("iptables-legacy -A INPUT -p nonsense", 2),
}


@pytest.mark.parametrize(("script", "status"), HARMLESS.values(), ids=HARMLESS)
def test_a_command_that_changes_nothing(start_service: Start, runner: Runner, script: str, status: int) -> None:
    """Nobody gets in over the limit, and the exit status is that of COMMAND."""
    service = start_service(INPUT)
    statuses: list[int] = []

    def change() -> None:
        statuses.append(runner.run(service.gateway, script, check=False).returncode)

    assert_count_kept(service, change)
    assert statuses == [status]
    assert not runner.run_directory.exists()


def dial_without_pause(service: Service, during: Callable[[], object]) -> tuple[int, int]:
    """Attempts made while `during` goes on, and how many of them got in."""
    stop = threading.Event()
    tally = [0, 0]

    def attempt() -> None:
        while not stop.is_set():
            tally[1] += len(service.dialer(
                service.network.client, service.shape.family, "tcp", service.address, 873, 8, timeout=0.3))  # fmt: skip
            tally[0] += 8

    thread = threading.Thread(target=attempt)
    thread.start()
    try:
        during()
    finally:
        stop.set()
        thread.join()
    return tally[0], tally[1]


RESTORES = (
    "iptables-legacy-save > $F/rules; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do"
    " iptables-legacy-restore < $F/rules; done"
)


def test_nobody_slips_in_during_twenty_restores(start_service: Start, runner: Runner) -> None:
    """Connections are attempted without a pause while the rules are restored twenty times: none gets in."""
    service = start_service(INPUT)
    old = service.dial()
    attempts, slipped = dial_without_pause(service, lambda: runner.run(service.gateway, RESTORES))
    assert slipped == 0
    assert attempts > 20
    assert len(living(old)) == LIMIT


def test_nobody_slips_in_while_a_stranger_has_the_lock(start_service: Start, runner: Runner) -> None:
    """Its opening went unseen, and it has the lock right after a restore; so has, for a moment, whoever closes it."""
    service = start_service(INPUT)
    old = service.dial()
    rules = service.gateway.run("iptables-legacy-save").stdout
    with open(runner.folder / "xtables.lock", "w", encoding="ascii") as lock:
        taken = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True)
        waits = f"-> FLOCK  ADVISORY  WRITE {os.getpid()} "
        with service.gateway, nfkeep.keep() as kept:
            restore = service.gateway.popen(["iptables-legacy-restore"], stdin=subprocess.PIPE)
            assert restore.stdin is not None
            restore.stdin.write(rules.partition("COMMIT")[0])
            restore.stdin.flush()
            assert wait_until(lambda: holds_a_lock(restore.pid))
            taken.start()
            assert wait_until(lambda: waits in Path("/proc/locks").read_text())
            restore.communicate("COMMIT\n")
            taken.join()
            assert len(service.dial()) == 0
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert wait_until(lambda: "nfkeep" not in service.gateway.run("nft list tables").stdout)
            assert len(service.dial()) == 0
    assert [each.fidelity for each in kept.report.outcomes if each.kind == "connlimit"] == [Fidelity.RESTORED]
    assert len(living(old)) == LIMIT


def holds_a_lock(process: int) -> bool:
    """Whether a process has a lock on a file."""
    return f": FLOCK  ADVISORY  WRITE {process} " in Path("/proc/locks").read_text()


def test_without_nfkeep_they_slip_in(start_service: Start, tmp_path: Path) -> None:
    """The control: with the same restores and nobody to watch, attempts get in over the limit."""
    service = start_service(INPUT)
    service.dial()
    environment = {**os.environ, "F": str(tmp_path)}
    _, slipped = dial_without_pause(
        service, lambda: service.gateway.run(["sh", "-ec", f"{RESTORES}; sleep 0.5"], env=environment)
    )
    assert slipped > 0


COUNTED = "-A INPUT -p udp --dport 9 -m comment --comment counted"


def packets_of(where: Namespace, text: str) -> int:
    """What the first rule with that text has counted."""
    lines = where.run("iptables-legacy-save -c").stdout.splitlines()
    return int(next(line for line in lines if text in line)[1:].partition(":")[0])


def send(where: Namespace, count: int, size: int = 72) -> None:
    """UDP packets to the host itself, that many bytes of IP each."""
    with where, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(size - 28), ("127.0.0.1", 9))


SENDER = (
    f'{sys.executable} -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);'
    " [s.sendto(bytes(44), ('127.0.0.1', 9)) for _ in range(5)]\""
)
ZEROED = {
    "restored": "iptables-legacy-restore < $F/rules",
    "flushed and restored": "iptables-legacy -F; iptables-legacy-restore < $F/rules",
    "put to zero": "iptables-legacy -Z",
    "restored twice": "iptables-legacy-restore < $F/rules; iptables-legacy-restore < $F/rules",
}


@pytest.mark.parametrize("way", ZEROED.values(), ids=ZEROED)
def test_counters_are_put_back(namespace: Namespace, runner: Runner, way: str) -> None:
    """Also what passed between the beginning and the change is counted still; 7 packets before, 5 meanwhile."""
    namespace.run(f"iptables-legacy {COUNTED}")
    send(namespace, 7)
    runner.run(namespace, f"iptables-legacy-save > $F/rules; {SENDER}; {way}")
    assert packets_of(namespace, "counted") == 12


QUOTA = "-A INPUT -p udp --dport 9 -m quota --quota 1440 -j ACCEPT"


@pytest.mark.parametrize("way", ZEROED.values(), ids=ZEROED)
def test_quotas_go_on_with_what_is_left(namespace: Namespace, runner: Runner, way: str) -> None:
    """Of 20 packets 7 are used before and 5 during COMMAND, so exactly 8 more are accepted."""
    namespace.run(f"iptables-legacy {QUOTA}")
    namespace.run("iptables-legacy -A INPUT -p udp --dport 9 -j DROP")
    send(namespace, 7)
    runner.run(namespace, f"iptables-legacy-save > $F/rules; {SENDER}; {way}")
    send(namespace, 20)
    assert packets_of(namespace, "quota") == 20
    assert packets_of(namespace, "-j DROP") == 12
    assert runner.outcomes()["quota"][0] == Fidelity.RESTORED.value


SEEN = "-A INPUT -p udp --dport 9 -m recent --name seen --set"


def entries(where: Namespace) -> int:
    """How many are in the list `seen`; 0 where there is no such list."""
    done = where.run(["sh", "-c", "mount -t proc proc /proc 2>/dev/null; cat /proc/thread-self/net/xt_recent/seen"],
                     check=False)  # fmt: skip
    return len(done.stdout.splitlines())


def test_a_list_outlives_its_rules(namespace: Namespace, runner: Runner) -> None:
    """While its rules are gone the list is alive; back again they find it, and the hold is taken down."""
    namespace.run(f"iptables-legacy {SEEN}")
    send(namespace, 1)
    assert entries(namespace) == 1
    look = "cat /proc/thread-self/net/xt_recent/seen > $F/between"
    back = "iptables-legacy-restore < $F/rules"
    runner.run(namespace, f"iptables-legacy-save > $F/rules; iptables-legacy -F; sleep 0.3; {look}; {back}")
    assert len((runner.folder / "between").read_text().splitlines()) == 1
    assert entries(namespace) == 1
    assert "nfkeep-hold" not in namespace.run("iptables-legacy-save").stdout


def test_a_list_whose_rules_stay_away_is_held(namespace: Namespace, runner: Runner) -> None:
    """It is said to be held, is alive, and goes with `nfkeep release`."""
    namespace.run(f"iptables-legacy {SEEN}")
    send(namespace, 1)
    said = runner.run(namespace, "iptables-legacy -F").stderr
    assert said.count("recent at IPv4 seen: held (") == 1
    assert runner.outcomes()["recent"][0] == Fidelity.HELD.value
    assert entries(namespace) == 1
    assert not runner.run_directory.exists()
    with namespace:
        assert nfkeep_release() == ["seen"]
    assert entries(namespace) == 0


ROUNDABOUT = {
    "rules put in front, one by one": (
        "for i in 1 2 3; do iptables-legacy -I INPUT -s 10.9.9.$i -j DROP; sleep 0.2; done",
        {"connlimit at IPv4 filter INPUT rule 4": "restored", "recent at IPv4 seen": "survives"},
    ),
    "a rule put in front, then all gone": (
        "iptables-legacy -I INPUT -s 10.9.9.9 -j DROP; sleep 0.2; iptables-legacy -F",
        {"recent at IPv4 seen": "held"},
    ),
    "all gone for a while": (
        "iptables-legacy-save > $F/rules; iptables-legacy -F; sleep 0.2; iptables-legacy-restore < $F/rules",
        {"connlimit at IPv4 filter INPUT rule 1": "restored", "recent at IPv4 seen": "survives"},
    ),
}


@pytest.mark.parametrize(("script", "expected"), ROUNDABOUT.values(), ids=ROUNDABOUT)
def test_the_report_is_of_the_end(namespace: Namespace, runner: Runner, script: str, expected: dict[str, str]) -> None:
    """However many changes a command makes, each state is reported once, where it is in the end, or not at all."""
    namespace.run(f"iptables-legacy -A INPUT {INPUT.rule(873)}")
    namespace.run(f"iptables-legacy {SEEN}")
    runner.run(namespace, script)
    outcomes = json.loads((runner.folder / "report").read_text())["outcomes"]
    assert {f"{each['kind']} at {each['where']}": each["fidelity"] for each in outcomes} == expected


def nfkeep_release() -> list[str]:
    """Let go all that is held in this namespace; the names."""
    return [name for _, (_, name) in holding.release()]


def test_nobody_is_held_off_for_long(start_service: Start, runner: Runner) -> None:
    """Whoever changes a table and then keeps the lock for six seconds has the gates shut for three at the most."""
    service = start_service(INPUT)
    old = service.dial(3)
    lock = os.environ["XTABLES_LOCKFILE"]
    script = (
        f"exec 9<>{lock}; flock 9; XTABLES_LOCKFILE=$F/other iptables-legacy -A INPUT -s 192.0.2.1 -j DROP;"
        " touch $F/began; sleep 6"
    )
    thread = threading.Thread(target=runner.run, args=(service.gateway, script))
    thread.start()
    try:
        assert wait_until((runner.folder / "began").exists, timeout=10.0)
        began = time.monotonic()
        assert wait_until(lambda: service.dial(1), timeout=10.0)
        assert time.monotonic() - began < 4.5
    finally:
        thread.join()
    assert len(living(old)) == 3


def test_in_python(start_service: Start, runner: Runner) -> None:
    """`keep()` keeps the count; its report is there once the block is left, and an error before."""
    service = start_service(INPUT)
    kept: list[nfkeep.Keeping] = []

    def change() -> None:
        with service.gateway, nfkeep.keep() as running:
            with pytest.raises(NfkeepError, match="not left yet"):
                _ = running.report
            service.plain("-A INPUT -s 192.0.2.1 -j DROP")
            kept.append(running)

    assert_count_kept(service, change)
    (outcome,) = [each for each in kept[0].report.outcomes if each.kind == "connlimit"]
    assert outcome.fidelity is Fidelity.RESTORED
    assert 0 < kept[0].report.gate_seconds < 3
    with service.gateway, pytest.raises(NfkeepError, match="one use"), kept[0]:
        raise AssertionError
    assert not runner.run_directory.exists()


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("mode", Mode, ids=str)
def test_every_way_to_watch(start_service: Start, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    """However changes become known, all live connections are counted in the end, and nobody else."""
    monkeypatch.setattr(keeping, "TableWatch", functools.partial(TableWatch, mode=mode))
    service = start_service(INPUT)

    def change() -> None:
        with service.gateway, nfkeep.keep():
            service.plain("-A INPUT -s 192.0.2.1 -j DROP")
            service.plain("-F")
            service.plain(f"-A INPUT {INPUT.rule(873)}")

    assert_count_kept(service, change)


@pytest.mark.usefixtures("runner")
def test_somebody_follows_at_once(start_service: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only looks tell of changes, one that comes while the last one is put right is not taken for that."""
    monkeypatch.setattr(keeping, "TableWatch", functools.partial(TableWatch, mode=Mode.LOOKING))
    service = start_service(INPUT)
    followed = threading.Event()
    put_back = keeping.put_back

    def put_back_and_follow(*arguments: Any, **options: Any) -> Report:
        report = put_back(*arguments, **options)
        if not followed.is_set():
            service.plain("-F")
            service.plain(f"-A INPUT {INPUT.rule(873)}")
            followed.set()
        return report

    def change() -> None:
        with service.gateway, nfkeep.keep():
            service.plain("-A INPUT -s 192.0.2.1 -j DROP")
            assert followed.wait(60)

    monkeypatch.setattr(keeping, "put_back", put_back_and_follow)
    assert_count_kept(service, change)


@pytest.mark.parametrize("mode", Mode, ids=str)
def test_a_program_without_the_lock(start_service: Start, runner: Runner, monkeypatch: pytest.MonkeyPatch,
                                    mode: Mode) -> None:  # fmt: skip
    """It is noticed within a second or so, and who was let in meanwhile counts: then nobody else is."""
    monkeypatch.setattr(keeping, "TableWatch", functools.partial(TableWatch, mode=mode))
    service = start_service(INPUT)
    old = service.dial()
    other_lock = {**os.environ, "XTABLES_LOCKFILE": str(runner.folder / "other")}
    with service.gateway, nfkeep.keep():
        service.gateway.run(f"iptables-legacy -A INPUT {INPUT.unrelated}", env=other_lock)
        began = time.monotonic()
        assert wait_until(lambda: not service.dial(), timeout=10.0)
        assert time.monotonic() - began < 5
    assert service.dial() == []
    assert len(living(old)) == LIMIT


@pytest.mark.usefixtures("runner")
def test_an_exception_goes_through(start_service: Start) -> None:
    """What was changed before it keeps its state, and the report is there."""
    service = start_service(INPUT)
    running = nfkeep.keep()

    def change() -> None:
        with service.gateway, running:
            service.plain("-A INPUT -s 192.0.2.1 -j DROP")
            raise ZeroDivisionError

    def changes() -> None:
        with pytest.raises(ZeroDivisionError):
            change()

    assert_count_kept(service, changes)
    assert {each.kind: each.fidelity for each in running.report.outcomes}["connlimit"] is Fidelity.RESTORED


@pytest.mark.usefixtures("runner")
def test_transactions_inside(start_service: Start) -> None:
    """A transaction of the same process inside the block works, and both keep the count."""
    service = start_service(INPUT)

    def change() -> None:
        with service.gateway, nfkeep.keep():
            service.append_unrelated()
            service.plain("-A INPUT -s 192.0.2.1 -j DROP")

    assert_count_kept(service, change)


def test_a_lock_that_stays_taken(namespace: Namespace, runner: Runner) -> None:
    """Where the lock cannot be had in time nothing begins: LockTimeoutError, no thread and no file is left."""
    namespace.run(f"iptables-legacy {SEEN}")
    before = set(threading.enumerate())
    with namespace, XtablesLock(), pytest.raises(nfkeep.LockTimeoutError), nfkeep.keep(lock_timeout=0.05):
        raise AssertionError
    assert wait_until(lambda: set(threading.enumerate()) <= before)  # one waits at the lock until it is free
    assert not runner.run_directory.exists()


BUCKETS = "INPUT -p udp --dport 9 -m hashlimit --hashlimit-name h --hashlimit-mode srcip --hashlimit-upto {} -j ACCEPT"
SLOW, FAST = BUCKETS.format("1/min --hashlimit-burst 2"), BUCKETS.format("1000/sec --hashlimit-burst 100")
NETWORKS = "INPUT -p udp --dport 9 -m recent --name seen --set --mask 255.{}"
ESTIMATOR = "INPUT -p udp --dport 9 -j RATEEST --rateest-name e --rateest-interval {} --rateest-ewma {}"
#: A rule, the same with another configuration, its state, and what becomes of it if it comes back as it was.
CONFIGURED = {
    "hashlimit": (SLOW, FAST, "hashlimit", Fidelity.SURVIVES),
    "recent": (NETWORKS.format("255.255.255"), NETWORKS.format("0.0.0"), "recent", Fidelity.SURVIVES),
    "rateest": (ESTIMATOR.format("250ms", "0.5s"), ESTIMATOR.format("1s", "4s"), "RATEEST", Fidelity.APPROXIMATED),
}


def in_force(where: Namespace, kind: str) -> str:
    """What shows by which configuration a state is made."""
    if kind == "hashlimit":
        before = packets_of(where, "-j ACCEPT")
        send(where, 50)
        return f"{packets_of(where, '-j ACCEPT') - before} of 50"
    if kind == "recent":
        send(where, 1)
        with where, open("/proc/thread-self/net/xt_recent/seen") as lines:
            return lines.read().split()[0]
    return ""


@pytest.mark.parametrize("mode", ["one after the other", "in two sessions"])
@pytest.mark.parametrize(("rule", "other", "kind", "_fidelity"), CONFIGURED.values(), ids=CONFIGURED)
def test_another_configuration_is_in_force(
    namespace: Namespace, runner: Runner, rule: str, other: str, kind: str, _fidelity: Fidelity, mode: str
) -> None:
    """A rule that COMMAND brings back with one gets it, and the state is said to be lost; a quota beside it goes on."""
    namespace.run(f"iptables-legacy {QUOTA.replace('1440', '144000')}".replace(" -j ACCEPT", ""))
    namespace.run(f"iptables-legacy -A {rule}")
    send(namespace, 10)
    pause = "sleep 0.3; " if mode == "in two sessions" else ""
    runner.run(namespace, f"iptables-legacy -D {rule}; {pause}iptables-legacy -A {other}")
    outcomes = runner.outcomes()
    assert outcomes[kind][0] == (Fidelity.APPROXIMATED if kind == "RATEEST" else Fidelity.LOST).value
    assert outcomes["quota"][0] == Fidelity.RESTORED.value
    assert packets_of(namespace, "quota") == 10
    assert in_force(namespace, kind) == {"hashlimit": "50 of 50", "recent": "src=127.0.0.0", "RATEEST": ""}[kind]
    assert "nfkeep" not in namespace.run("iptables-legacy-save").stdout
    with namespace:
        assert str(nfkeep.read("filter").chains["INPUT"].rules[1]) == str(nfkeep.Rule.parse(other[6:]))


@pytest.mark.parametrize(("rule", "_other", "kind", "fidelity"), CONFIGURED.values(), ids=CONFIGURED)
def test_the_same_configuration_goes_on(
    namespace: Namespace, runner: Runner, rule: str, _other: str, kind: str, fidelity: Fidelity
) -> None:
    """A rule that COMMAND brings back as it was finds its state."""
    namespace.run(f"iptables-legacy -A {rule}")
    send(namespace, 10)
    script = "iptables-legacy-save > $F/rules; iptables-legacy -F; sleep 0.3; iptables-legacy-restore < $F/rules"
    runner.run(namespace, script)
    assert runner.outcomes()[kind][0] == fidelity.value
    assert in_force(namespace, kind) == {"hashlimit": "0 of 50", "recent": "src=127.0.0.1", "RATEEST": ""}[kind]


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("mode", Mode, ids=str)
def test_another_configuration_however_it_is_noticed(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """Inside of `keep()` it is in force soon, not only in the end, and to go back to the first one is no way back."""
    monkeypatch.setattr(keeping, "TableWatch", functools.partial(TableWatch, mode=mode))
    namespace.run(f"iptables-legacy -A {SLOW}")
    send(namespace, 10)
    with namespace, nfkeep.keep() as kept:
        namespace.run("iptables-legacy -F")
        namespace.run(f"iptables-legacy -A {FAST}")
        assert wait_until(lambda: in_force(namespace, "hashlimit") == "50 of 50")
        namespace.run("iptables-legacy -F")
        namespace.run(f"iptables-legacy -A {SLOW}")
    assert {outcome.kind: outcome.fidelity for outcome in kept.report.outcomes}["hashlimit"] is Fidelity.LOST
    assert in_force(namespace, "hashlimit") == "2 of 50"
