"""A process killed in the middle of a change: whoever comes next finishes the change, or undoes it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from limited import LIMIT, NFKEEP, Shape

import nfkeep
from nfkeep import Counters, Family, Fidelity, NfkeepError
from nfkeep.keep import journal
from nfkeep.keep.hold import held
from nfkeep.testing import living, wait_until
from nfkeep.xtables import recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from limited import Service

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

SHAPE = Shape("INPUT")
NEW = "-s 192.0.2.1/32 -j DROP"

#: Where a process dies, as Python that is run before the change.
KILLED = """
import os, signal, sys
import nfkeep
from nfkeep import Family
from nfkeep.keep.change import Change
from nfkeep.keep.restore import Restoration
from nfkeep.keep import change, commit, hold, journal
from nfkeep.xtables.tables import TableHandle

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(owner, name, number=1):
    earlier, calls = getattr(owner, name), []
    def counting(*arguments, **options):
        calls.append(1)
        return die() if len(calls) == number else earlier(*arguments, **options)
    setattr(owner, name, counting)

def die_behind(owner, name, number=1):
    earlier, calls = getattr(owner, name), []
    def counting(*arguments, **options):
        result = earlier(*arguments, **options)
        calls.append(1)
        return die() if len(calls) == number else result
    setattr(owner, name, counting)
"""
ONE = """
with nfkeep.transaction() as tx:
    tx.append("INPUT", "-s 192.0.2.1/32 -j DROP")
"""
TWO = """
with nfkeep.transactions(("filter", Family.IPV4), ("mangle", Family.IPV4)) as txs:
    for each in txs:
        txs[each].append("INPUT", "-s 192.0.2.1/32 -j DROP")
"""
LIST = """
with nfkeep.transaction() as tx:
    tx.flush("INPUT")
"""
EDITED = "from nfkeep.keep.editing import TableEdits\n"

#: Moments of a change of one table with a limit, and whether the new rules are live by then.
MOMENTS = {
    "the journal is written": ("die_at(Restoration, 'shut')", False),
    "the gate is shut": ("die_behind(Restoration, 'shut')", False),
    "before the replace": (f"{EDITED}die_at(TableEdits, 'write')", False),
    "behind the replace": (f"{EDITED}die_behind(TableEdits, 'write')", True),
    "before counting again": ("die_at(Restoration, 'count_again')", True),
    "in the middle of counting": ("from nfkeep.keep import restore\ndie_at(restore, 'prime')", True),
    "counted, before the gate opens": ("die_at(Restoration, 'open_gate')", True),
    "behind counting": ("die_behind(Restoration, 'count_again')", True),
}
#: Of a change of two tables, and how many of them are new by then.
MOMENTS_OF_TWO = {
    "before the first": (f"{EDITED}die_at(TableEdits, 'write', 1)", 0),
    "behind the first": (f"{EDITED}die_behind(TableEdits, 'write', 1)", 1),
    "before the second": (f"{EDITED}die_at(TableEdits, 'write', 2)", 1),
    "behind both": (f"{EDITED}die_behind(TableEdits, 'write', 2)", 2),
}


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for each test, to look into; other processes get it by their environment."""
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def killed(namespace: Namespace, moment: str, change: str) -> None:
    """A process that dies in that moment of its change, and its gate, which goes a moment later."""
    process = namespace.popen([sys.executable, "-c", KILLED + moment + "\n" + change], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, said
    assert wait_until(lambda: namespace.run("nft list tables").stdout == "")


def finish(namespace: Namespace, way: str) -> tuple[nfkeep.Recovered, ...]:
    """What comes next: somebody asks for it, or just begins a transaction."""
    with namespace:
        if way == "recover":
            return nfkeep.recover()
        with nfkeep.transaction("raw"):
            return ()


def rules(namespace: Namespace, table: str = "filter") -> list[str]:
    with namespace:
        return [str(rule) for rule in nfkeep.read(table).chains["INPUT"].rules]


def journals(run_directory: Path) -> list[Path]:
    return list(run_directory.glob("*/change-*"))


def send(namespace: Namespace, count: int = 1) -> None:
    """Datagrams of 100 bytes."""
    with namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(bytes(72), ("127.0.0.1", 9))


@pytest.mark.parametrize("way", ["recover", "the next transaction"])
@pytest.mark.parametrize(("moment", "live"), MOMENTS.values(), ids=MOMENTS)
def test_killed_in_a_change_of_one_table(
    start_service: Callable[..., Service], run_directory: Path, moment: str, live: bool, way: str
) -> None:
    """The rules stay as the kernel has them, old or new; the count and the counters are what they would have been."""
    service = start_service(SHAPE)
    service.plain("-A INPUT -i lo -p udp --dport 9")
    send(service.gateway, 5)
    old = service.dial()
    assert len(old) == LIMIT
    before = rules(service.gateway)
    killed(service.gateway, moment, ONE)
    assert len(journals(run_directory)) == 1
    send(service.gateway, 2)
    recovered = finish(service.gateway, way)
    assert rules(service.gateway) == ([*before, NEW] if live else before)
    assert [each.undone for each in recovered] == ([False] if way == "recover" else [])
    for each in recovered:
        (outcome,) = [o for o in each.report.outcomes if o.kind == "connlimit"]
        assert outcome.fidelity is Fidelity.RESTORED
    assert not run_directory.exists()
    assert service.dial() == []
    assert len(living(old)) == LIMIT
    assert service.server.resets == 0
    with service.gateway:
        counted = nfkeep.read("filter").chains["INPUT"].rules[1].counters
        assert counted == Counters(7, 700)
        assert nfkeep.recover() == ()


@pytest.mark.parametrize("way", ["recover", "the next transaction"])
@pytest.mark.parametrize(("moment", "live"), MOMENTS_OF_TWO.values(), ids=MOMENTS_OF_TWO)
def test_killed_in_a_change_of_two_tables(
    start_service: Callable[..., Service], run_directory: Path, moment: str, live: int, way: str
) -> None:
    """All of them are new or none: half of a change is undone, with the counts and counters of what was put back."""
    service = start_service(SHAPE)
    service.plain("-A INPUT -i lo -p udp --dport 9")
    service.plain("-A INPUT -i lo -p udp --dport 9 -m quota --quota 100000")
    service.plain("-t mangle -A INPUT -i lo -p udp --dport 9")
    send(service.gateway, 5)
    old = service.dial()
    before = [rules(service.gateway, table) for table in ("filter", "mangle")]
    killed(service.gateway, moment, TWO)
    send(service.gateway, 2)
    recovered = finish(service.gateway, way)
    now = [rules(service.gateway, table) for table in ("filter", "mangle")]
    assert now[0][2].startswith("-i lo -p udp -m udp --dport 9 -m quota --quota 99")
    before[0][2] = now[0][2] = "the quota"
    assert now == [[*each, NEW] if live == 2 else each for each in before]
    assert [each.undone for each in recovered] == ([live == 1] if way == "recover" else [])
    assert not journals(run_directory)
    assert service.dial() == []
    assert len(living(old)) == LIMIT
    with service.gateway:
        filters, mangles = (nfkeep.read(table).chains["INPUT"].rules for table in ("filter", "mangle"))
        assert [each.counters for each in (filters[1], mangles[0])] == [Counters(7, 700)] * 2
        with nfkeep.transaction() as tx:
            tx.append("FORWARD", NEW)
    (quota,) = [outcome for outcome in tx.report.outcomes if outcome.kind == "quota"]
    assert quota.detail.startswith("99300 of 100000 bytes are left")


def test_killed_between_the_replace_and_the_counters(
    start_service: Callable[..., Service], run_directory: Path, tmp_path: Path
) -> None:
    """The kernel has the new rules with counters at zero: they are given back."""
    service = start_service(SHAPE)
    service.plain("-A INPUT -i lo -p udp --dport 9")
    send(service.gateway, 5)
    old = service.dial()
    before = rules(service.gateway)
    with service.gateway:
        limit = nfkeep.read("filter").chains["INPUT"].rules[0].counters
    # The process ends at the system call that would set the counters: SECCOMP_RET_KILL_PROCESS.
    moment = """
import ctypes, struct
def filters():
    tests, program = [(0, 54), (24, 0), (32, 65)], []  # setsockopt, IPPROTO_IP, IPT_SO_SET_ADD_COUNTERS
    for at, (offset, value) in enumerate(tests):
        program += [(0x20, 0, 0, offset), (0x15, 0, 2 * (len(tests) - 1 - at) + 1, value)]
    program += [(6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program),
        ctypes.addressof(code)))) == 0
from nfkeep.keep.editing import TableEdits
earlier = TableEdits.write
def write(self):
    filters()
    earlier(self)
TableEdits.write = write
"""
    process = service.gateway.popen([sys.executable, "-c", KILLED + moment + ONE], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGSYS, said
    assert rules(service.gateway) == [*before, NEW]
    with service.gateway:
        assert nfkeep.read("filter").chains["INPUT"].rules[1].counters == Counters()
    send(service.gateway, 2)
    (recovered,) = finish(service.gateway, "recover")
    assert not recovered.undone
    assert not run_directory.exists()
    with service.gateway:
        limited, counted, _ = nfkeep.read("filter").chains["INPUT"].rules
    assert counted.counters == Counters(7, 700)
    assert limited.counters == limit
    assert service.dial() == []
    assert len(living(old)) == LIMIT


BAN = "-s 198.51.100.7/32 -j REJECT --reject-with icmp-port-unreachable"
#: What another program bans in before the recovery: moment, table, which tables have the change in the end, what is
#: told of it.
BANNED = {
    "in the first, before it is replaced": ("before the first", "filter", (), (False, "IPv4 filter")),
    "in the second, before the first is replaced": ("before the first", "mangle", (), (False, "")),
    "in the first, behind its replace": ("behind the first", "filter", ("filter",), (False, "IPv4 filter")),
    "in the second, before its turn": ("behind the first", "mangle", (), (True, "")),
    "in the first, before the second is replaced": ("before the second", "filter", ("filter",), (False, "IPv4 filter")),
    "in the second, when nobody can tell": ("before the second", "mangle", ("filter",), (False, "IPv4 mangle")),
    "in the first, behind both": ("behind both", "filter", ("filter", "mangle"), (False, "")),
    "in the second, behind both": ("behind both", "mangle", ("filter", "mangle"), (False, "IPv4 mangle")),
}


@pytest.mark.parametrize(("moment", "table", "new", "told"), BANNED.values(), ids=BANNED)
def test_what_others_changed_since_stays(
    namespace: Namespace, run_directory: Path, moment: str, table: str, new: tuple[str, ...], told: tuple[bool, str]
) -> None:
    """Undone is only what is as the killed process wrote it; what else has become of a table is left, and told."""
    for each in ("filter", "mangle"):
        namespace.run(f"iptables-legacy -t {each} -A INPUT -m limit --limit 5/min")
    before = {each: rules(namespace, each) for each in ("filter", "mangle")}
    killed(namespace, MOMENTS_OF_TWO[moment][0], TWO)
    namespace.run(f"iptables-legacy -t {table} -I INPUT {BAN if table == 'filter' else NEW}")
    ban = [BAN if table == "filter" else NEW]
    (recovered,) = finish(namespace, "recover")
    for each, was in before.items():
        wanted = [*was, NEW] if each in new else was
        assert rules(namespace, each) == (ban + wanted if each == table else wanted)
    assert (recovered.undone, recovered.left) == told
    assert (f"somebody else has changed {told[1]} since" in str(recovered)) == bool(told[1])
    assert not journals(run_directory)


@pytest.mark.parametrize("moment", ["observe", "put_back"])
def test_a_recovery_that_is_killed_undoes_no_finished_change(
    namespace: Namespace, run_directory: Path, moment: str
) -> None:
    """The tables of `nfkeep run` change one by one, also for the recovery behind a recovery."""
    namespace.run("iptables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE")
    namespace.run("iptables-legacy -A INPUT -m limit --limit 5/min")
    body = """
import subprocess
with nfkeep.keep():
    subprocess.run("iptables-legacy -A INPUT -s 192.0.2.1/32 -j DROP", shell=True, check=True)
    die()
"""
    killed(namespace, "", body)
    owner = "recovery" if moment == "observe" else "change"
    killed(namespace, f"from nfkeep.keep import recovery\ndie_at({owner}, '{moment}')", "nfkeep.recover()")
    assert len(journals(run_directory)) == 1
    (recovered,) = finish(namespace, "recover")
    assert not recovered.undone
    assert rules(namespace)[-1] == NEW
    assert not journals(run_directory)


def test_a_recovery_that_is_killed_undoes_once(namespace: Namespace, run_directory: Path) -> None:
    """What it had put back is not looked at again: what others have changed since then stays, and is not told of."""
    for table in ("filter", "mangle"):
        namespace.run(f"iptables-legacy -t {table} -A INPUT -m limit --limit 5/min")
    before = rules(namespace)
    killed(namespace, MOMENTS_OF_TWO["behind the first"][0], TWO)
    killed(namespace, "die_at(change, 'put_back')", "nfkeep.recover()")
    assert rules(namespace) == before
    namespace.run(f"iptables-legacy -A INPUT {NEW}")  # by hand this time
    (recovered,) = finish(namespace, "recover")
    assert (recovered.undone, recovered.left) == (False, "")
    assert rules(namespace) == [*before, NEW]
    assert not journals(run_directory)


@pytest.mark.parametrize("moment", MOMENTS_OF_TWO)
def test_a_journal_of_an_earlier_format(namespace: Namespace, run_directory: Path, moment: str) -> None:
    """It does not tell what the killed process wrote, so nothing is undone; nothing fails."""
    for table in ("filter", "mangle"):
        namespace.run(f"iptables-legacy -t {table} -A INPUT -m limit --limit 5/min")
    killed(namespace, MOMENTS_OF_TWO[moment][0], TWO)
    now = [rules(namespace, table) for table in ("filter", "mangle")]
    (journal,) = journals(run_directory)
    line, _, rest = journal.read_bytes().partition(b"\n")
    head = json.loads(line)
    earlier = {key: head[key] for key in ("tables", "together", "holds")}
    size = sum(table["size"] for table in head["tables"])
    journal.write_bytes(json.dumps(earlier).encode() + b"\n" + rest[:size])
    journal.rename(journal.with_name("change-4711-1"))
    (recovered,) = finish(namespace, "recover")
    assert (recovered.tables, recovered.undone) == ("IPv4 filter, IPv4 mangle", False)
    assert [rules(namespace, table) for table in ("filter", "mangle")] == now
    assert not run_directory.exists()


def test_what_cannot_be_noted_is_not_replaced(
    namespace: Namespace, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is full by the second table: one clear error, and the first one is put back."""
    for table in ("filter", "mangle"):
        namespace.run(f"iptables-legacy -t {table} -A INPUT -m limit --limit 5/min")
    before = [rules(namespace, table) for table in ("filter", "mangle")]
    append, calls = journal._append, []

    def full(record: Path, content: bytes) -> None:
        calls.append(record)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(record, content)

    monkeypatch.setattr(journal, "_append", full)

    def change() -> None:
        with nfkeep.transactions(("filter", Family.IPV4), ("mangle", Family.IPV4)) as txs:
            for each in txs:
                txs[each].append("INPUT", NEW)

    with namespace, pytest.raises(NfkeepError, match=r"change-.*: No space left"):
        change()
    assert [rules(namespace, table) for table in ("filter", "mangle")] == before
    assert not run_directory.exists()


def test_the_last_one_is_recovered_first(namespace: Namespace, run_directory: Path) -> None:
    """As what an earlier one knows is the older state; whatever the numbers of the processes are."""
    for number in range(3):
        flight = f"journal.Flight((), ((Family.IPV4, ('recent', 'list{number}')),))"
        killed(namespace, "", f"with journal.written({flight}):\n    die()")
    with namespace:
        found = [flight.holds[0][1][1] for _, flight in journal.left_behind() if flight is not None]
    assert found == ["list2", "list1", "list0"]


@pytest.mark.parametrize("way", ["recover", "the next transaction"])
@pytest.mark.parametrize("live", [False, True], ids=["before the replace", "behind it"])
def test_a_hold_that_is_not_needed_goes(namespace: Namespace, run_directory: Path, live: bool, way: str) -> None:
    """The list is alive in any case; it is held only if its last rule has really gone."""
    namespace.run("iptables-legacy -A INPUT -p tcp --dport 22 -m recent --name ssh --set")
    with namespace, open("/proc/thread-self/net/xt_recent/ssh", "w") as control:
        control.write("+192.0.2.7\n")
    killed(namespace, f"{EDITED}die_{'behind' if live else 'at'}(TableEdits, 'write')", LIST)
    with namespace:
        assert held(Family.IPV4) == {("recent", "ssh")}
        finish(namespace, way)
        assert held(Family.IPV4) == ({("recent", "ssh")} if live else frozenset())
        assert recent.entries("ssh") == 1
    assert not run_directory.exists()


UNDONE = "undone: a change of IPv4 filter, IPv4 mangle that was cut off"
COMMANDS = {
    "iptables": ["iptables", "-A", "FORWARD", "-s", "192.0.2.9", "-j", "DROP"],
    "run": ["run", "--json", "report", "true"],
    "hold": ["hold", "recent:ssh"],
    "release": ["release"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_command_tells_what_it_recovered(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """On stderr, before what came of its own change, and in the report; once."""
    namespace.run("iptables-legacy -A INPUT -p tcp --dport 22 -m recent --name ssh --set")
    namespace.run("iptables-legacy -A INPUT -p udp --dport 9 -m quota --quota 100000")
    killed(namespace, MOMENTS_OF_TWO["behind the first"][0], TWO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NFKEEP_REPORT", "report")
    done = namespace.run([*NFKEEP, *arguments], env=dict(os.environ))
    assert done.stderr.splitlines()[:2] == [
        f"nfkeep: {UNDONE}",
        "nfkeep:   quota at IPv4 filter INPUT rule 2: restored (100000 of 100000 bytes are left)",
    ]
    if arguments[0] in ("iptables", "run"):
        (recovered,) = json.loads((tmp_path / "report").read_text())["recovered"]
        assert (recovered["tables"], recovered["undone"], recovered["left"]) == ("IPv4 filter, IPv4 mangle", True, "")
    assert UNDONE not in namespace.run([*NFKEEP, *arguments], env=dict(os.environ)).stderr


def test_a_transaction_reports_what_it_recovered(namespace: Namespace, run_directory: Path) -> None:
    """Beside the outcomes of its own."""
    namespace.run("iptables-legacy -A INPUT -m limit --limit 5/min")
    killed(namespace, MOMENTS_OF_TWO["behind the first"][0], TWO)
    with namespace, nfkeep.transaction("raw") as tx:
        tx.append("OUTPUT", NEW)
    (recovered,) = tx.report.recovered
    assert str(recovered) == UNDONE
    assert tx.report.outcomes == ()
    assert json.loads(tx.report.to_json())["recovered"] == [json.loads(recovered.to_json())]


def test_nothing_to_recover(namespace: Namespace, run_directory: Path) -> None:
    """Then nothing is done and nothing is made."""
    with namespace:
        assert nfkeep.recover() == ()
    assert not run_directory.exists()


def cut(content: bytes) -> dict[str, bytes]:
    return {
        "nothing": b"",
        "half a line": content[:20],
        "the line": content.partition(b"\n")[0],
        "not all entries": content[:-1],
        "no JSON": b"x" + content,
        "other JSON": b"[]\n",
        "no text": b"\xff" * 100,
    }


def test_a_journal_cut_short_is_removed(namespace: Namespace, run_directory: Path) -> None:
    """Its writer died while writing, before the first replace: there is nothing to finish."""
    namespace.run("iptables-legacy -A INPUT -m limit --limit 1/min")
    killed(namespace, f"{EDITED}die_behind(TableEdits, 'write')", ONE)
    now = rules(namespace)
    (journal,) = journals(run_directory)
    whole = journal.read_bytes()
    for content in cut(whole).values():
        journal.parent.mkdir(parents=True, exist_ok=True)
        for folder in (run_directory, journal.parent):
            folder.chmod(0o700)
        journal.write_bytes(content)
        with namespace:
            assert nfkeep.recover() == ()
        assert not run_directory.exists()
        assert rules(namespace) == now


@contextmanager
def waiting(namespace: Namespace) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a change, behind the replace; it goes on when told to."""
    pause = f"""
{EDITED}
earlier = TableEdits.write
def write(self):
    earlier(self)
    print("there", flush=True)
    sys.stdin.readline()
TableEdits.write = write
"""
    process = namespace.popen(
        [sys.executable, "-c", KILLED + pause + ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "there\n"
    yield process
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(20) == 0


def test_the_journal_of_a_living_process_is_left_alone(namespace: Namespace, run_directory: Path) -> None:
    """Even by one who does not wait for the xtables lock."""
    from nfkeep.keep.recovery import recover_locked

    namespace.run("iptables-legacy -A INPUT -m limit --limit 1/min")
    with waiting(namespace):
        (journal,) = journals(run_directory)
        content = journal.read_bytes()
        with namespace:
            assert recover_locked() == ()
        assert journal.read_bytes() == content
    assert not run_directory.exists()
    assert rules(namespace)[-1] == NEW


def test_namespaces_have_journals_of_their_own(
    namespace: Namespace, namespace_factory: Callable[[], Namespace], run_directory: Path
) -> None:
    """What was left behind in one is nothing to the other."""
    other = namespace_factory()
    for each in (namespace, other):
        each.run("iptables-legacy -A INPUT -m limit --limit 1/min")
    killed(namespace, f"{EDITED}die_behind(TableEdits, 'write')", ONE)
    with other:
        assert nfkeep.recover() == ()
        with nfkeep.transaction() as tx:
            tx.append("INPUT", "-s 192.0.2.2")
    assert len(journals(run_directory)) == 1
    with namespace:
        (recovered,) = nfkeep.recover()
    assert recovered.tables == "IPv4 filter"
    assert not run_directory.exists()


@pytest.mark.parametrize("wrong", ["mode", "owner", "a file", "a link"])
def test_a_run_directory_that_others_can_write_to(
    namespace: Namespace, run_directory: Path, tmp_path: Path, wrong: str
) -> None:
    """One clear error, from a change and from recovery, and nothing is changed; what is in it is not believed."""
    namespace.run("iptables-legacy -A INPUT -m limit --limit 1/min")
    before = rules(namespace)
    if wrong == "a file":
        run_directory.touch(mode=0o600)
    elif wrong == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        run_directory.symlink_to(tmp_path / "elsewhere")
    else:
        run_directory.mkdir(mode=0o700)
        if wrong == "mode":
            run_directory.chmod(0o777)
        else:
            os.chown(run_directory, 65534, 65534)
    with namespace, pytest.raises(NfkeepError, match="mode 0700"), nfkeep.transaction() as tx:
        tx.append("INPUT", NEW)
    with namespace, pytest.raises(NfkeepError, match="mode 0700"):
        nfkeep.recover()
    assert rules(namespace) == before


def test_a_run_directory_that_cannot_be_made(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One clear error, with the way out of it, before anything is changed."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path / "file" / "below"))
    namespace.run("iptables-legacy -A INPUT -m limit --limit 5/min -j ACCEPT")
    with namespace, pytest.raises(NfkeepError, match="NFKEEP_RUN_DIRECTORY"), nfkeep.transaction() as tx:
        tx.flush("INPUT")
    assert "--limit" in namespace.run("iptables-legacy -S").stdout
