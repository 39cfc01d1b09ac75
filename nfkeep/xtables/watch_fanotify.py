"""Holds up whoever opens the xtables lock file until the caller has answered (fanotify(7), FAN_OPEN_PERM).

A thread reads what the kernel asks, so that nobody waits longer than agreed, whatever the rest of the process does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import struct
import sys
import termios
import threading
import time

import attrs

from nfkeep.xtables import _ffi
from nfkeep.xtables.watch_inotify import held_by_another

__all__ = ["Doorkeeper", "Sign", "identity"]

# linux/fanotify.h
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata: …, mask, descriptor, thread
_ANSWER = struct.Struct("=iI")  # struct fanotify_response
_ALLOW = 1
_OPENING = 0x00010000
_CLOSED = 0x00000008 | 0x00000010

_ROOM = 64  # openers held up at once; each costs a descriptor, the others wait in the kernel
_PAUSE_SECONDS = 0.005


@attrs.frozen(slots=True)
class Sign:
    """Thread `thread` wants to open the file (then `number` is what to answer to) or has closed it (None)."""

    thread: int
    number: int | None = None


@attrs.frozen(slots=True)
class _Opener:
    descriptor: int
    thread: int
    deadline: float


class Doorkeeper:
    """Stops the openers of the files given to `add`, each until `let_in` or for `patience_seconds` at most.

    Let in at once, and not told of: the thread that made this object (it could not answer itself), and whoever is in
    another network namespace. Threads are named as in the caller's pid namespace; 0 is one that cannot be seen from it.

    The kernel lets everybody in once the group is closed, also by the death of the process (fanotify_release() in
    fs/notify/fanotify/fanotify_user.c). A child forked without exec keeps it open; one that runs a program does not.

    A process that has no descriptor left makes the kernel refuse the opener (copy_event_to_user() there).

    Raises OSError where the kernel has no such events (EINVAL) or the caller is not the host's root (EPERM).
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._owner = threading.get_native_id()
        self._namespace = _namespace("thread-self")
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Opener] = {}
        self._inside: set[int] = set()
        self._foreign: set[int] = set()
        self._files: set[tuple[int, int]] = set()
        self._signs: list[Sign] = []
        with contextlib.ExitStack() as undo:
            self._group = _ffi.doorkeeper_open()
            undo.callback(os.close, self._group)
            self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._news)
            self._stop = os.eventfd(0, os.EFD_CLOEXEC)
            undo.pop_all()
        self._thread = threading.Thread(target=self._serve, name="nfkeep-doorkeeper", daemon=True)
        self._thread.start()

    def add(self, file: int) -> None:
        """Guard the file that the descriptor is open on. Raises OSError if the file system cannot."""
        _ffi.doorkeeper_add(self._group, file)
        with self._lock:
            self._files.add(identity(os.fstat(file)))

    def fileno(self) -> int:
        """Readable while there are signs to take."""
        return self._news

    def take(self) -> list[Sign]:
        """The signs since the last call, in the kernel's order; of closings that follow each other only one."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        with self._lock:
            self._drain()  # what the thread has not come to yet: nothing that has happened by now may be missing
            signs, self._signs = self._signs, []
        return signs

    def let_in(self, number: int) -> bool:
        """Let an opener in; False if it had waited too long and has been let in before."""
        with self._lock:
            opener = self._waiting.pop(number, None)
            if opener is not None:
                self._admit(opener)
            return opener is not None

    @property
    def occupied(self) -> bool:
        """Whether somebody who was let in has the file open, or is about to."""
        with self._lock:
            dead = {thread for thread in self._inside if not _lives(thread)}
            if not self._drain():
                return True
            # Who is dead by now without a closing was killed before it had the file, or a child has the lock from it.
            if dead & self._inside and not any(held_by_another(*file) for file in self._files):
                self._inside -= dead
            return bool(self._inside)

    @property
    def alive(self) -> bool:
        """False once nobody is held up any more: after `close`, or by a fault of the thread."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Let everybody in, for good. Idempotent."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._news)
        os.close(self._stop)
        self._stop = -1

    def _serve(self) -> None:
        try:
            while not self._stopped():
                with self._lock:
                    self._let_in_the_overdue()
                    count = self._read()
                if count is None:
                    _readable(self._stop, _PAUSE_SECONDS)
        finally:  # whatever happened: nobody may wait for a thread that has ended
            with self._lock:
                for opener in self._waiting.values():
                    os.close(opener.descriptor)
                self._waiting.clear()
                os.close(self._group)
                self._group = -1
            os.eventfd_write(self._news, 1)

    def _stopped(self) -> bool:
        """Wait for the kernel, the nearest deadline or the end; whether it is the end."""
        with self._lock:
            nearest = min((opener.deadline for opener in self._waiting.values()), default=None)
        left = None if nearest is None else max(0.0, nearest - time.monotonic()) * 1000 + 1
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._group, select.POLLIN)
        return any(descriptor == self._stop for descriptor, _ in poll.poll(left))

    def _drain(self) -> bool:
        """Read all that there is by now, but not what comes meanwhile; whether that could be done."""
        if self._group < 0:
            return True
        left = int.from_bytes(fcntl.ioctl(self._group, termios.FIONREAD, bytes(4)), sys.byteorder) // _EVENT.size
        while left > 0:
            count = self._read()
            if count is None:
                return False
            left = left - count if count else 0
        return True

    def _read(self) -> int | None:
        """Take as many events as there is room for, and say how many; None without room, or a descriptor, for any.

        To be called with the lock held, as all below.
        """
        room = _ROOM - len(self._waiting)
        if not room:
            return None
        try:
            events = os.read(self._group, _EVENT.size * room)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                return None
            raise
        for _, _, _, _, mask, descriptor, thread in _EVENT.iter_unpack(events):
            if mask & _OPENING:
                self._opening(descriptor, thread)
            else:
                os.close(descriptor)
                if mask & _CLOSED:
                    self._closed(thread)
        return len(events) // _EVENT.size

    def _opening(self, descriptor: int, thread: int) -> None:
        opener = _Opener(descriptor, thread, time.monotonic() + self._patience_seconds)
        self._foreign.discard(thread)  # of another, earlier thread of that number
        known = thread == self._owner or self._is_foreign(thread)
        if known:
            self._answer(opener)
            return
        number = next(self._numbers)
        self._waiting[number] = opener
        self._tell(Sign(thread, number))

    def _closed(self, thread: int) -> None:
        stranger = thread not in self._inside  # a child that has inherited the file, or another thread
        gone = {one for one in self._inside if stranger or one == thread}
        self._inside -= {one for one in gone if not _has_open(one, self._files)}
        if thread in self._foreign:
            self._foreign.discard(thread)
        elif thread != self._owner:
            self._tell(Sign(thread))

    def _is_foreign(self, thread: int) -> bool:
        # It waits for us, so its number is still its own. One that cannot be seen is taken for one of ours.
        with contextlib.suppress(OSError):
            if thread and _namespace(str(thread)) != self._namespace:
                self._foreign.add(thread)
                return True
        return False

    def _let_in_the_overdue(self) -> None:
        now = time.monotonic()
        for number in [number for number, opener in self._waiting.items() if opener.deadline <= now]:
            self._admit(self._waiting.pop(number))

    def _admit(self, opener: _Opener) -> None:
        self._inside.add(opener.thread)  # before the answer: it may be through and closed before we go on
        self._answer(opener)

    def _answer(self, opener: _Opener) -> None:
        with contextlib.suppress(FileNotFoundError):  # some kernels have forgotten one that was killed meanwhile
            os.write(self._group, _ANSWER.pack(opener.descriptor, _ALLOW))
        os.close(opener.descriptor)

    def _tell(self, sign: Sign) -> None:
        if sign.number is None and self._signs and self._signs[-1].number is None:
            return  # that one stands for this one, and nobody can make us hoard
        self._signs.append(sign)
        os.eventfd_write(self._news, 1)


def _namespace(thread: str) -> tuple[int, int]:
    return identity(os.stat(f"/proc/{thread}/ns/net"))


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells one file from another while it is open: device and inode."""
    return status.st_dev, status.st_ino


def _readable(descriptor: int, timeout_seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


def _lives(thread: int) -> bool:
    try:
        with open(f"/proc/{thread}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[0] not in b"ZX"
    except OSError:
        return False


def _has_open(thread: int, files: set[tuple[int, int]]) -> bool:
    try:
        names = os.listdir(f"/proc/{thread}/fd")
    except OSError:  # it has ended, or is out of sight
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if identity(os.stat(f"/proc/{thread}/fd/{name}")) in files:
                return True
    return False
