"""The watch over the legacy tables tells of every change, in each mode what it promises, and never hangs anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from nfkeep.errors import UnsupportedError
from nfkeep.model import Family
from nfkeep.testing.polling import wait_until
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.tables import read
from nfkeep.xtables.watch import Event, Kind, Mode, TableWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nfkeep.namespaces import Namespace

IPTABLES = "iptables-legacy -w -A INPUT -s 192.0.2.1 -j DROP"
FILTER = ((Family.IPV4, "filter"),)
ABOUT, MAYBE, WITHOUT = Kind.ABOUT_TO_CHANGE, Kind.MAYBE_CHANGED, Kind.CHANGED_WITHOUT_LOCK


@pytest.fixture
def inside(namespace: Namespace) -> Iterator[Namespace]:
    """The test's thread in a namespace of its own that has a filter table."""
    with namespace:
        read("filter")
        yield namespace


@pytest.fixture
def private_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file for this test alone, not made yet."""
    path = tmp_path / "private.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


def next_of(watch: TableWatch, kind: Kind) -> Event:
    """The next event, which must be of that kind."""
    event = watch.wait(10)
    assert event is not None
    assert event.kind is kind
    return event


def serve(watch: TableWatch, until: Callable[[], bool]) -> list[Event]:
    """Answer every event until the condition holds and there are no more events."""
    events = []
    deadline = time.monotonic() + 30
    while True:
        over = until()
        event = watch.wait(0 if over else 0.05)
        if event is not None:
            watch.answer(event)
            events.append(event)
        elif over:
            return events
        assert time.monotonic() < deadline


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def rules() -> list[str]:
    """The rules of INPUT."""
    return [str(rule) for rule in read("filter").chains["INPUT"].rules]


def thread_that_opens(path: str, inside: Namespace) -> threading.Thread:
    """A thread of this process that opens and closes the lock, in that namespace."""

    def opens() -> None:
        with inside:
            os.close(os.open(path, os.O_RDONLY))

    thread = threading.Thread(target=opens, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (IPTABLES, None),
        ("iptables-legacy-restore -w", "*filter\n-A INPUT -s 192.0.2.1 -j DROP\nCOMMIT\n"),
    ],
    ids=["iptables", "restore"],
)
def test_table_stays_as_it_is_until_the_answer(inside: Namespace, command: str, text: str | None) -> None:
    """iptables waits with the table unread; after the answer it goes on, and its end is told."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60, poll_seconds=60) as watch:
        process = inside.popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(text or "")
        process.stdin.close()
        event = next_of(watch, ABOUT)
        assert event.thread == process.pid
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        inside.run("iptables-legacy -A INPUT -s 192.0.2.2 -j DROP", env={**os.environ, "XTABLES_LOCKFILE": os.devnull})
        assert watch.answer(event)
        assert next_of(watch, MAYBE).thread == process.pid
        assert process.wait(10) == 0
        assert not watch.occupied
    ours = "-s 192.0.2.1/32 -j DROP"
    assert rules() == ([ours] if text else ["-s 192.0.2.2/32 -j DROP", ours])


@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_tells_of_a_change(inside: Namespace, mode: Mode) -> None:
    """However openings become known, one change is told of before (if it can be) and after, in this order."""
    with TableWatch(FILTER, mode=mode) as watch:
        assert watch.mode is mode
        process = inside.popen(IPTABLES)
        events = [event.kind for event in serve(watch, lambda: process.poll() is not None and bool(rules()))]
        if mode is Mode.LOOKING:
            events += [next_of(watch, WITHOUT).kind] if not events else []
            assert events == [WITHOUT]
        else:
            assert events[0] is ABOUT
            assert events[-1] is MAYBE
            assert WITHOUT not in events
        assert watch.wait(0.3) is None


@pytest.mark.parametrize("mode", [Mode.FANOTIFY, Mode.INOTIFY])
def test_eight_writers_at_once(inside: Namespace, private_lock: Path, mode: Mode) -> None:
    """Writers that queue at the lock are all let through, all write, and the watch is not occupied behind the last."""
    with TableWatch(FILTER, mode=mode) as watch:
        writers = [inside.popen(IPTABLES.replace("192.0.2.1", f"192.0.2.{host}")) for host in range(1, 9)]
        events = serve(watch, lambda: all(writer.poll() is not None for writer in writers))
        assert [writer.returncode for writer in writers] == [0] * 8
        assert events[-1].kind is MAYBE
        assert WITHOUT not in {event.kind for event in events}
        if mode is Mode.FANOTIFY:
            assert {event.thread for event in events if event.kind is ABOUT} == {writer.pid for writer in writers}
        assert not watch.occupied
    assert len(rules()) == 8


def test_who_waits_at_the_lock_keeps_the_watch_occupied(inside: Namespace) -> None:
    """Somebody let in who waits for its turn may still change a table after another has closed the lock."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY) as watch, XtablesLock() as lock:
        process = inside.popen(IPTABLES)
        watch.answer(next_of(watch, ABOUT))
        thread = thread_that_opens(lock.path, inside)
        watch.answer(next_of(watch, ABOUT))
        next_of(watch, MAYBE)
        thread.join()
        assert watch.occupied
        assert process.poll() is None
        lock.release()
        assert next_of(watch, MAYBE).thread == process.pid
        assert not watch.occupied


def test_nobody_hangs_when_the_watcher_is_killed(inside: Namespace) -> None:
    """SIGKILL for the watcher while an opener waits: the opener goes on."""
    watcher = inside.popen([sys.executable, "-c", _WATCHER], stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "watching\n"
    process = inside.popen(IPTABLES)
    assert watcher.stdout.readline() == "somebody waits\n"
    assert process.poll() is None
    watcher.kill()
    assert process.wait(10) == 0
    assert len(rules()) == 1


_WATCHER = """
import signal
from nfkeep.xtables.watch import Mode, TableWatch
with TableWatch(mode=Mode.FANOTIFY, patience_seconds=600) as watch:
    print("watching", flush=True)
    watch.wait()
    print("somebody waits", flush=True)
    signal.pause()
"""


def test_nobody_waits_longer_than_agreed(inside: Namespace) -> None:
    """Without an answer an opener goes on after `patience_seconds`, and the late answer says so."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=0.2) as watch:
        started = time.monotonic()
        inside.run(IPTABLES)
        assert 0.2 <= time.monotonic() - started < 5
        assert not watch.answer(next_of(watch, ABOUT))
        next_of(watch, MAYBE)


def test_closing_lets_openers_go_on(inside: Namespace) -> None:
    """Who waits when the watch is closed goes on at once."""
    watch = TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60)
    process = inside.popen(IPTABLES)
    event = next_of(watch, ABOUT)
    watch.close()
    watch.close()
    assert process.wait(10) == 0
    assert not watch.answer(event)


@pytest.mark.parametrize("answer_first", [False, True])
def test_opener_that_is_killed(inside: Namespace, private_lock: Path, answer_first: bool) -> None:
    """An opener killed before the answer, or while it waits for its turn, does not leave the watch occupied."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60) as watch, XtablesLock():
        process = inside.popen(IPTABLES)
        event = next_of(watch, ABOUT)
        if answer_first:
            watch.answer(event)
            assert watch.occupied
        process.kill()
        process.wait(10)
        watch.answer(event)
        if answer_first:
            assert next_of(watch, MAYBE).thread == process.pid
        assert not watch.occupied
        assert rules() == []


def test_child_that_has_the_lock_from_its_dead_parent(inside: Namespace, private_lock: Path) -> None:
    """As long as anybody has the open lock from an opener, also one that is dead, the watch is occupied."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY) as watch:
        shell = inside.popen(
            ["sh", "-c", 'exec 8<&0 9<"$0"; flock 9; cat <&8 8<&- & exit', private_lock], stdin=subprocess.PIPE
        )
        watch.answer(next_of(watch, ABOUT))
        shell.wait(10)
        assert watch.wait(0.05) is None
        assert watch.occupied
        assert shell.stdin is not None
        shell.stdin.close()
        next_of(watch, MAYBE)
        assert not watch.occupied


def test_own_lock_is_not_held_up(inside: Namespace) -> None:
    """The thread that watches takes the lock at once, without an event; another thread of the process is asked."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60) as watch:
        started = time.monotonic()
        with XtablesLock() as lock:
            assert time.monotonic() - started < 5
        assert watch.wait(0.05) is None
        thread = thread_that_opens(lock.path, inside)
        event = next_of(watch, ABOUT)
        assert event.thread == thread.native_id
        assert watch.answer(event)
        next_of(watch, MAYBE)
        thread.join()


def test_other_network_namespaces_are_not_asked(inside: Namespace, namespace_factory: Callable[[], Namespace]) -> None:
    """One lock file serves all namespaces; what happens in another is neither held up nor told."""
    other = namespace_factory()
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60) as watch:
        other.run(IPTABLES, timeout=10)
        assert watch.wait(0.05) is None
        process = inside.popen(IPTABLES)
        watch.answer(next_of(watch, ABOUT))
        assert next_of(watch, MAYBE).thread == process.pid


@pytest.mark.parametrize("mode", list(Mode))
def test_change_without_the_lock(inside: Namespace, tmp_path: Path, mode: Mode) -> None:
    """A program with another lock file is found out afterwards, also if the table's size stays the same."""
    elsewhere = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "elsewhere")}
    inside.run(IPTABLES)
    with TableWatch(FILTER, mode=mode) as watch:
        for command in (IPTABLES, "iptables-legacy -R INPUT 1 -s 192.0.2.9 -j DROP"):
            inside.run(command, env=elsewhere)
            next_of(watch, WITHOUT)
        assert watch.wait(1.5) is None


@pytest.mark.parametrize("mode", [Mode.FANOTIFY, Mode.INOTIFY])
def test_lock_file_made_anew(inside: Namespace, private_lock: Path, mode: Mode) -> None:
    """The file is made if need be; one that takes its place is watched from then on."""
    with TableWatch(FILTER, mode=mode) as watch:
        assert private_lock.stat().st_mode & 0o777 == 0o600
        private_lock.unlink()
        next_of(watch, MAYBE)
        assert private_lock.exists()
        aside = private_lock.with_name("aside")
        aside.touch()
        aside.rename(private_lock)
        next_of(watch, MAYBE)
        process = inside.popen(IPTABLES)
        events = [event.kind for event in serve(watch, lambda: process.poll() is not None)]
        assert ABOUT in events
        assert events[-1] is MAYBE


def test_held_before_the_watch_began(inside: Namespace) -> None:
    """Somebody who holds the lock already is told of at once, and the watch is occupied until it is through."""
    holder = inside.popen(["flock", XtablesLock().path, "cat"], stdin=subprocess.PIPE)
    assert wait_until(lambda: _is_held(XtablesLock().path))
    with TableWatch(FILTER, mode=Mode.FANOTIFY) as watch:
        assert not watch.answer(next_of(watch, ABOUT))
        assert watch.occupied
        assert holder.stdin is not None
        holder.stdin.close()
        next_of(watch, MAYBE)
        holder.wait()
        assert wait_until(lambda: not watch.occupied)


def _is_held(path: str) -> bool:
    return subprocess.run(["flock", "-n", path, "true"], check=False).returncode != 0


def test_crowd_of_openers(inside: Namespace) -> None:
    """Of a hundred openers 64 at a time cost a descriptor; the others wait in the kernel, and all get their answer."""
    with TableWatch(FILTER, mode=Mode.FANOTIFY, patience_seconds=60) as watch:
        full = descriptors() + 100 + 64  # each thread has one for the namespace that it came from
        threads = [thread_that_opens(watch.path, inside) for _ in range(100)]
        assert wait_until(lambda: descriptors() == full)
        assert not wait_until(lambda: descriptors() != full, timeout=0.2)
        events = serve(watch, lambda: not any(thread.is_alive() for thread in threads))
        asked = {event.thread for event in events if event.kind is ABOUT}
        assert asked == {thread.native_id for thread in threads}
        assert not watch.occupied


def test_no_descriptor_is_left(inside: Namespace) -> None:
    """A thousand openings leave no descriptor open, nor does the watch itself."""
    before = descriptors()
    with TableWatch(FILTER, mode=Mode.FANOTIFY) as watch:
        during = descriptors()
        opener = inside.popen([sys.executable, "-S", "-c", _OPENS, watch.path])
        events = serve(watch, lambda: opener.poll() is not None)
        assert [event.kind for event in events].count(ABOUT) == 1000
        assert opener.returncode == 0
        assert descriptors() == during
    assert descriptors() == before


_OPENS = """
import os, sys
for _ in range(1000):
    os.close(os.open(sys.argv[1], os.O_RDONLY))
"""


def test_best_mode_that_there_is(inside: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a lock file that could be watched only the tables are; asked for more, the watch says why not."""
    with TableWatch(FILTER) as watch:
        assert watch.mode is Mode.FANOTIFY
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "no" / "folder"))
    with TableWatch(FILTER) as watch:
        assert watch.mode is Mode.LOOKING
    with pytest.raises(UnsupportedError, match="No such file") as refused:
        TableWatch(FILTER, mode=Mode.INOTIFY)
    assert refused.value.feature == "inotify"


def test_in_a_user_namespace(inside: Namespace) -> None:
    """Root of a container may not hold up others; there the watch is told."""
    asks = "from nfkeep.xtables.watch import TableWatch\nwith TableWatch() as watch: print(watch.mode.value)"
    done = inside.run(["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", asks])
    assert done.stdout == "inotify\n"
