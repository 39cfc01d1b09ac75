"""The move of a running host and the way back: connections, lists, quotas, verdicts, the watch, and interruptions."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from limited import LIMIT, Service, Shape
from mover import MIGRATE, NEW, OLD, Mover, without_counters
from rounds import rounds

from nfkeep import Family, NfkeepError
from nfkeep.migrate.live import cutover, record
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan
from nfkeep.testing import close_all, living, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

SHAPES = [
    Shape("IPv4 TCP INPUT"),
    Shape("IPv6 TCP INPUT", Family.IPV6),
    Shape("IPv4 TCP FORWARD, DNAT and MASQUERADE", chain="FORWARD", nat=True, condition="-i cli0"),
    Shape("IPv4 TCP INPUT, ctstate NEW", condition="-i cli0 -m conntrack --ctstate NEW"),
    Shape("IPv4 TCP INPUT of iptables-nft", variant="nft"),
    Shape("IPv6 TCP INPUT of iptables-nft", Family.IPV6, variant="nft"),
    Shape("IPv4 TCP FORWARD, DNAT and MASQUERADE of iptables-nft", chain="FORWARD", nat=True, variant="nft"),
]


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host with a few rules of many kinds, in a namespace of its own."""
    for rule in (
        "iptables-legacy -A INPUT -s 192.0.2.1 -j DROP",
        "iptables-legacy -A INPUT -m recent --name seen --update --seconds 3600 -j DROP",
        "iptables-legacy -A INPUT -p udp --dport 7 -m quota --quota 1000000 -j ACCEPT",
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -t mangle -A PREROUTING -p tcp -j MARK --set-mark 5",
        "ip6tables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT",
    ):
        namespace.run(rule)
    return Mover(namespace)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_connections_and_their_limit(start_service: Callable[..., Service], shape: Shape) -> None:
    """Ten are in; after the move no eleventh gets in, all live, three that close make room for three; and back.

    Also when the move was confirmed.
    """
    service = start_service(shape)
    move = Mover(service.gateway)
    old = service.dial()
    assert len(old) == LIMIT
    steps = [(["apply", "--accept-losses"], NEW), (["rollback"], OLD)]
    for command, force in [*steps, steps[0], (["confirm"], NEW), steps[1]]:
        told = move(*command).stdout
        assert move.force() == force
        assert len(service.dial()) == 0, told
        assert len(living(old)) == LIMIT
        close_all(old[:3])
        admitted = service.dial_again(3)
        assert len(admitted) == 3
        old = [*old[3:], *admitted]
        assert len(living(old)) == LIMIT


def test_a_set_that_is_named_like_those_that_count(mover: Mover) -> None:
    """Counts of connections begin anew in a move; what is in a set of the operator's does not, whatever its name."""
    for command in (
        "ipset create connlimit-INPUT hash:ip timeout 3600",
        "ipset add connlimit-INPUT 192.0.2.9",
        "iptables-legacy -A INPUT -m set --match-set connlimit-INPUT src -j DROP",
        "iptables-legacy -A INPUT -p tcp --syn -m connlimit --connlimit-above 10 -j DROP",
    ):
        mover.namespace.run(command)
    mover("apply")
    assert "192.0.2.9" in mover.namespace.run("nft list set ip filter connlimit-INPUT").stdout
    assert "ct count over 10" in mover.nft()


def test_there_and_back(mover: Mover) -> None:
    """Rules, policies and lists are in force in nft; after the rollback everything is as it was, and nft is empty."""
    before = mover.legacy()
    with mover.namespace, open("/proc/thread-self/net/xt_recent/seen", "w") as seen:
        seen.write("+203.0.113.7\n")
    mover("apply")
    nft = mover.nft()
    assert mover.force() == NEW
    assert "203.0.113.7" in nft
    assert "type filter hook forward priority filter; policy drop;" in nft
    assert mover.status()["state"] == "applied"
    mover.namespace.run("nft add element ip filter recent-seen-3600s { 203.0.113.8 }")
    told = mover("rollback").stdout
    assert "1 addresses that came meanwhile" in told
    assert (mover.force(), mover.nft()) == (OLD, "")
    assert without_counters(mover.legacy()) == without_counters(before)
    with mover.namespace, open("/proc/thread-self/net/xt_recent/seen") as seen:
        assert sorted(line.split()[0] for line in seen) == ["src=203.0.113.7", "src=203.0.113.8"]


def test_what_was_used_up(mover: Mover) -> None:
    """Counters go on in nft where they were, and so does the quota; and back in iptables."""
    with mover.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(10):
            sender.sendto(bytes(72), ("127.0.0.1", 7))
    told = mover("apply").stdout
    assert re.search("quota +IPv4 filter INPUT rule 3 +restored +goes on .* to the byte", told)
    assert "counter packets 10 bytes 1000 accept" in mover.nft()
    assert "1000000 bytes used 1000 bytes" in mover.nft()
    mover("rollback")
    assert "[10:1000] -A INPUT -p udp" in mover.namespace.run("iptables-legacy-save -c").stdout


@pytest.mark.parametrize("family", [[], ["--ipv6"]], ids=["IPv4", "IPv6"])
def test_verify(mover: Mover, family: list[str]) -> None:
    """Before the move and after it; and what somebody changes in nft is found."""
    assert ", 0 treated differently" in mover("verify", "--live", "--packets", "100", *family).stdout
    mover("apply")
    assert ", 0 treated differently" in mover("verify", "--live", "--packets", "100", *family).stdout
    name = "ip6" if family else "ip"
    mover.namespace.run(f"nft insert rule {name} filter INPUT meta l4proto tcp drop")
    assert mover("verify", "--live", "--packets", "100", *family, check=False).returncode == 5


def test_confirm(mover: Mover) -> None:
    """The tables of iptables are empty then; a late rollback loads them from the disk."""
    before = mover.legacy()
    mover("apply")
    mover("confirm")
    assert mover.force() == NEW
    assert "-A" not in mover.legacy()
    assert "DROP" not in mover.legacy()
    assert mover("confirm", check=False).returncode == 1
    mover("rollback")
    assert mover.force() == OLD
    assert without_counters(mover.legacy()) == without_counters(before)


def test_after_the_next_boot(mover: Mover, tmp_path: Path) -> None:
    """What is written for it is what is in force, without what was counted; what was in the file is kept."""
    config = tmp_path / "nftables.conf"
    config.write_text("# mine\n")
    mover.namespace.run("iptables-legacy -A INPUT -p udp -m connlimit --connlimit-above 9 -j DROP")
    mover("apply")
    with mover.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"counted", ("127.0.0.1", 8))
    assert "127.0.0.1 ct count over 9" in mover.nft()
    mover("confirm", "--config", str(config))
    (kept,) = tmp_path.glob("nftables.conf.before-*")
    assert kept.read_text() == "# mine\n"
    rules = mover.namespace.run("nft -s list ruleset").stdout
    mover.namespace.run("nft flush ruleset")
    mover.namespace.run(["nft", "-f", str(config)])
    loaded = mover.namespace.run("nft -s list ruleset").stdout
    assert loaded == "".join(line for line in rules.splitlines(keepends=True) if "elements = " not in line)
    assert "ip saddr 192.0.2.1" in rules


def test_who_has_to_be_switched(mover: Mover) -> None:
    """Once it is final the operator is told of each program that goes on with iptables, and what to change there."""
    mover("apply")
    assert "Programs" not in mover("confirm").stdout
    mover("rollback")
    for chain in "f2b-sshd", "ufw-before-input":
        mover.namespace.run(f"iptables-legacy -N {chain}")
    mover("apply")
    said = mover("confirm").stdout.partition("Programs that go on writing with iptables")[2].splitlines()
    assert [line.split()[:3] for line in said[2:]] == [
        ["fail2ban", "chain", "f2b-sshd"],
        ["ufw", "chain", "ufw-before-input"],
    ]
    assert "nfkeep fail2ban adopt" in said[2]
    assert "stop and disable it" in said[3]


def test_a_file_that_cannot_be_written(mover: Mover, tmp_path: Path) -> None:
    """Nothing is confirmed then."""
    mover("apply")
    done = mover("confirm", "--config", str(tmp_path / "missing" / "nftables.conf"), check=False)
    assert (done.returncode, "cannot be written" in done.stderr) == (1, True)
    assert mover.status()["state"] == "applied"


def test_nobody_confirms(mover: Mover) -> None:
    """The move is undone in time, by a process that does not go with the one that has started it."""
    mover("apply", "--confirm", "1")
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)
    assert mover.nft() == ""


def test_nobody_confirms_the_second_time(mover: Mover) -> None:
    """A move that was undone before is no reason for the watch to go home."""
    mover("apply")
    mover("rollback")
    mover("apply", "--confirm", "1")
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)


def test_what_cannot_be_undone_is_tried_again(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits does not give up: where the lock cannot be had when the time is over, it is undone once it can."""
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(locks / "xtables.lock"))
    mover("apply", "--confirm", "3")
    locks.rename(tmp_path / "away")
    with mover.namespace:
        log = record.folder() / "watch.log"
    assert wait_until(lambda: "cannot be undone yet" in log.read_text(), timeout=20.0)
    assert mover.force() == NEW
    (tmp_path / "away").rename(locks)
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)
    assert wait_until(lambda: not watching(mover.namespace))
    assert mover.nft() == ""


def test_nobody_can_wait(mover: Mover) -> None:
    """Where no watch can be started, nothing is moved."""
    before = without_counters(mover.legacy())

    def failing() -> None:
        raise NfkeepError("no watch")

    with mover.namespace, record.locked(), pytest.raises(NfkeepError, match="no watch"):
        cutover.apply(make_plan(read_host()), lambda _: None, seconds=300.0, watch=failing)
    assert (mover.force(), mover.nft(), without_counters(mover.legacy())) == (OLD, "", before)
    assert mover.status()["state"] == "rolled back"


def test_somebody_confirms(mover: Mover) -> None:
    """Then whoever waits goes, and nothing is undone."""
    mover("apply", "--confirm", "300")
    left = mover.status()["seconds_left"]
    assert isinstance(left, float)
    assert 200 < left <= 300
    mover("confirm")
    assert mover.force() == NEW
    assert wait_until(lambda: not watching(mover.namespace))


def test_a_probe_that_fails(mover: Mover, tmp_path: Path) -> None:
    """Before the move nothing is changed; after it, it is undone at once."""
    probe = f"test -e {tmp_path}/reachable"
    assert "the probe fails" in mover("apply", "--confirm", "300", "--probe", probe, check=False).stderr
    assert mover.status()["state"] == "not begun"
    (tmp_path / "reachable").touch()
    mover("apply", "--confirm", "300", "--probe", probe)
    assert mover.force() == NEW
    (tmp_path / "reachable").unlink()
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)


def watching(namespace: Namespace) -> bool:
    """Whether a process waits for the confirmation in this namespace."""
    found = subprocess.run(["pgrep", "-f", "nfkeep.migrate.live.watch"], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == namespace.inode:
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["nft add table ip filter", "nft add chain ip filter own { type filter hook input priority 5; }"],
         "nft has a table ip filter already"),
        (["iptables-legacy -F", "iptables-legacy -P FORWARD ACCEPT", "iptables-legacy -t mangle -F",
          "ip6tables-legacy -F"], "no rules of iptables"),
        (["iptables-nft -A INPUT -j DROP"], "rules of both legacy iptables and iptables-nft"),
        (["iptables-legacy -A INPUT -m string --string x --algo bm -j DROP"], "cannot be expressed in nft"),
    ],
    ids=["a table of that name", "nothing", "iptables-nft", "a loss"],
)  # fmt: skip
def test_refused(mover: Mover, commands: list[str], said: str) -> None:
    """What is in the way is told, and nothing is changed."""
    for command in commands:
        mover.namespace.run(command)
    before = mover.legacy(), mover.nft()
    done = mover("apply", "--confirm", "300", check=False)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert without_counters(mover.legacy()) == without_counters(before[0])
    assert mover.nft() == before[1]
    assert wait_until(lambda: not watching(mover.namespace))


def test_plan(mover: Mover) -> None:
    """It says what would become of everything, and changes nothing."""
    before = mover.legacy()
    done = mover("plan", "--json", check=False)
    plan = json.loads(done.stdout)
    assert done.returncode == 3  # something is approximated
    states = {each["kind"]: each["fidelity"] for each in plan["states"]}
    assert states == {"counters": "restored", "recent": "restored", "quota": "restored"}
    assert plan["obstacles"] == []
    assert "table ip filter {" in plan["script"]
    text = mover("plan", check=False).stdout
    assert "IPv4: 4 rules in 2 tables" in text
    assert (without_counters(mover.legacy()), mover.nft()) == (without_counters(before), "")


@pytest.fixture
def blocked(mover: Mover) -> Iterator[Callable[[], int]]:
    """A flood of datagrams to a port that the rules drop; called, how many have come through."""
    mover.namespace.run("iptables-legacy -I INPUT -p udp --dport 9 -j DROP")
    with mover.namespace:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        receiver.bind(("127.0.0.1", 9))
        flood = mover.namespace.popen([sys.executable, "-c", _FLOOD])
    try:
        yield lambda: len(_received(receiver))
    finally:
        flood.kill()
        flood.wait()
        receiver.close()


_FLOOD = """
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        sender.sendto(b"x", ("127.0.0.1", 9))
    except OSError:
        pass
"""


def _received(receiver: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(receiver.recv(100))
        except BlockingIOError:
            return found


def test_no_packet_slips_through(mover: Mover, blocked: Callable[[], int]) -> None:
    """Of datagrams at full rate that are to be dropped, none passes: at the move, the rollback, the confirmation."""
    assert wait_until(lambda: _dropped(mover) > 1000)
    blocked()  # what came before the rule
    for commands in (["apply", "rollback"], ["apply", "confirm"], ["rollback"]):
        for command in commands:
            mover(command)
    assert _dropped(mover) > 1000
    assert blocked() == 0


def _dropped(mover: Mover) -> int:
    for line in mover.namespace.run("iptables-legacy-save -c").stdout.splitlines():
        if "--dport 9" in line:
            return int(line[1:].partition(":")[0])
    return 0


def test_killed_at_any_moment(mover: Mover) -> None:
    """The old rules are whole and in force then, or the new ones, or both; status tells, and rollback heals."""
    before = without_counters(mover.legacy())
    started = time.monotonic()
    mover("apply")
    mover("rollback")
    took = (time.monotonic() - started) / 2
    chance = random.Random(7)
    for _ in range(rounds(12)):
        for command in ("apply", "rollback"):
            process = mover.namespace.popen([*MIGRATE, command], env=dict(os.environ))
            time.sleep(chance.uniform(0.3, 1.0) * took)  # the moment is what is tried here
            mover.kill(process)
            assert_complete(mover)
        if mover.status()["state"] in ("applying", "applied"):
            mover("rollback")
        assert (mover.force(), without_counters(mover.legacy()), mover.nft()) == (OLD, before, "")


@pytest.mark.parametrize("step", ["loading nft's rules", "putting the rules of iptables"])
def test_ctrl_c(mover: Mover, step: str) -> None:
    """A move that is interrupted is undone, whole; another one can follow at once."""
    before = without_counters(mover.legacy())
    process = mover.namespace.popen([*MIGRATE, "apply"], env=dict(os.environ), stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = iter(process.stderr)
    assert any(step in line for line in told)
    process.send_signal(signal.SIGINT)
    said = "".join(told)
    if process.wait() == 130:
        assert "interrupted; `nfkeep-migrate status` tells" in said
        assert (mover.force(), without_counters(mover.legacy()), mover.nft()) == (OLD, before, "")
        assert mover.status()["state"] == "rolled back"
    else:  # it came too late
        assert (step.startswith("putting"), mover.force()) == (True, NEW)
        mover("rollback")
    mover("apply")
    assert mover.force() == NEW


def assert_complete(mover: Mover) -> None:
    """Some rules are in force, none of them in part, and what status says of them is so."""
    force = mover.force()
    legacy, nft = mover.legacy(), mover.nft()
    assert any(force.values())
    parked = legacy.count("nft has the rules now")
    assert force["iptables"] == (parked < 3 + 5 + 3)
    assert parked == 0 or force["nft"]  # while one table after the other is written too
    whole = "ip saddr 192.0.2.1" in nft and "table ip6 filter" in nft and "table ip mangle" in nft
    assert force["nft"] == (whole and "flags dormant" not in nft)
