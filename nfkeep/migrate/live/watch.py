"""Whoever waits for the confirmation: a process of its own, which no lost terminal takes along, undoes the move."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.keep import rundir
from nfkeep.migrate.live import cutover, record
from nfkeep.migrate.live.record import APPLIED, APPLYING
from nfkeep.xtables import lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.live.record import Record

PROBE_SECONDS = 1.0
"""A probe is run so often; one that takes five times as long has failed."""

AGAIN_SECONDS = 2.0
"""What cannot be undone is tried again after so long."""

_LOG = "watch.log"
_PATHS, _PLACES = ("PATH", "PYTHONPATH"), ("HOME", lock.VARIABLE, rundir.VARIABLE, record.VARIABLE)


def start(seconds: float, probe: str) -> None:
    """Start `watch` in a process apart from this one and its terminal; returns when it is waiting.

    With systemd as the host's first process it becomes a unit of its own, else a process in a session of its own.
    """
    record.wake_path()
    arguments = [sys.executable, "-m", __name__, f"{seconds}", probe]
    if Path("/run/systemd/system").is_dir() and record.folder().name == record.HOST:
        kept = [f"--setenv={name}={value}" for name, value in environment().items()]
        arguments = ["systemd-run", "--quiet", "--collect", "--service-type=notify", *kept, "--", *arguments]
    ready, write = os.pipe()
    try:
        with open(record.folder() / _LOG, "ab") as log:
            started = subprocess.Popen(
                arguments, stdin=write, stdout=log, stderr=log, start_new_session=True, cwd="/",
                env={**os.environ, **environment()},
            )  # fmt: skip
    finally:
        os.close(write)
    with open(ready, "rb") as waiting:
        said = waiting.read()
    if arguments[0] == "systemd-run":
        if started.wait():
            raise NfkeepError(f"the watch could not be started; {record.folder() / _LOG} tells why")
    elif said != b"ready":
        started.wait()
        raise NfkeepError(f"the watch could not be started; {record.folder() / _LOG} tells why")


def environment() -> dict[str, str]:
    """The variables by which programs, and the move's record, are found: as they are here, from the root directory."""
    # An empty word of a path would be the directory that the watch works in.
    words = {name: [*filter(None, os.environ.get(name, "").split(os.pathsep))] for name in _PATHS}
    words |= {name: [os.environ[name]] for name in _PLACES if os.environ.get(name)}
    return {name: os.pathsep.join(map(os.path.abspath, some)) for name, some in words.items() if some}


def watch(seconds: float, probe: str = "") -> None:
    """Wait until the move that is on record is confirmed or undone, and undo it if its time is over or the probe fails.

    `seconds`: for how long to wait in all for the move to be made, should the one that makes it die. What fails to be
    undone is tried until it is, or somebody else has done it. Raises NfkeepError if there is no move on record.
    """
    latest = time.monotonic() + seconds
    words = shlex.split(probe)
    found = record.load()
    if found is None:
        raise NfkeepError(f"there is no move on record in {record.folder()}")
    began = _began(found)
    with _fifo() as wake:
        _tell_ready()
        _close_stdin()
        while True:
            try:
                state, deadline = _state(began, latest)
                if state not in (APPLYING, APPLIED):
                    return
                left = deadline - time.monotonic()
                failed = bool(words) and state == APPLIED and not probed(words)
                if left <= 0 or failed:
                    if _undone(began, latest, failed=failed):
                        return
                    continue  # there is time left after all
            except Exception as error:
                # Whatever it is: nobody else may be able to, and what is in the way, such as a lock, may go away.
                with contextlib.suppress(OSError):  # the log may be what is in the way, on a disk that is full
                    sys.stderr.write(f"it cannot be undone yet: {error!r}\n")
                left = AGAIN_SECONDS
            select.select([wake], [], [], min(left, PROBE_SECONDS) if words else left)
            with contextlib.suppress(BlockingIOError):
                os.read(wake.fileno(), 4096)


def probed(words: Sequence[str]) -> bool:
    """Whether a probe succeeds, in time: run in the root directory, with none of a session's variables."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=5 * PROBE_SECONDS, check=False, cwd="/", env=environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _began(found: Record) -> float:
    """What tells one move from the next."""
    return found.steps[0][0]


def _state(began: float, latest: float) -> tuple[str, float]:
    found = record.load()
    if found is None or _began(found) != began:
        return "", latest
    return found.state, latest if found.deadline is None else found.deadline


def _undone(began: float, latest: float, *, failed: bool) -> bool:
    """Undo the move, once whoever is making it has ended; False if there is time left after all."""
    with record.locked():
        state, deadline = _state(began, latest)
        if state == APPLIED and not failed and deadline > time.monotonic():
            return False
        if state in (APPLYING, APPLIED):
            cutover.rollback()
        return True


def _fifo() -> FileIO:
    return FileIO(os.open(record.wake_path(), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _tell_ready() -> None:
    """Whoever has started this waits for it, at the pipe that is our standard input or by way of systemd."""
    if address := os.environ.get("NOTIFY_SOCKET"):  # sd_notify(3); @ is for the zero of an abstract socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as systemd:
            systemd.sendto(b"READY=1", f"\0{address[1:]}" if address.startswith("@") else address)
    with contextlib.suppress(OSError):
        os.write(0, b"ready")


def _close_stdin() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()


if __name__ == "__main__":
    watch(float(sys.argv[1]), sys.argv[2])
