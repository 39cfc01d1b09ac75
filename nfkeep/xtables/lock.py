"""The xtables lock, as iptables takes it: flock(2) on /run/xtables.lock or $XTABLES_LOCKFILE.

iptables/xshared.c, xtables_lock(). The lock is one for all network namespaces that share the file.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time

from nfkeep.errors import LockTimeoutError, PermissionDeniedError
from nfkeep.xtables._ffi import is_absent as is_absent
from nfkeep.xtables._ffi import try_lock

VARIABLE, DEFAULT_PATH = "XTABLES_LOCKFILE", "/run/xtables.lock"
_VARIABLE, _DEFAULT = VARIABLE.encode(), DEFAULT_PATH.encode()


class XtablesLock:
    """Holds the lock between `acquire` and `release`; a context manager. Not re-entrant."""

    __slots__ = ("_fd", "timeout_seconds")

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self.timeout_seconds = timeout_seconds
        self._fd: int | None = None

    @property
    def path(self) -> str:
        """The file."""
        return os.environ.get(VARIABLE) or DEFAULT_PATH

    def acquire(self) -> None:
        """Wait for the lock, for `timeout_seconds` at most (None: as long as it takes; 0: not at all).

        Raises LockTimeoutError, or PermissionDeniedError if the file cannot be opened.
        """
        fd = try_lock(_VARIABLE, _DEFAULT)
        self._fd = fd if fd >= 0 else self._wait()

    def _wait(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise PermissionDeniedError(f"opening the xtables lock {self.path}") from None
        try:
            _flock(fd, self.path, self.timeout_seconds)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def release(self) -> None:
        """Let others in. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def fileno(self) -> int:
        """The descriptor that holds the lock; a child that inherits it holds the lock too, as long as it lives."""
        assert self._fd is not None, "the lock is not held"
        return self._fd

    def __enter__(self) -> XtablesLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _flock(fd: int, path: str, timeout_seconds: float | None) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return
    if timeout_seconds is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    # flock(2) knows no timeout: wait for it in a thread, on a descriptor of its own that shares the open file.
    started = time.monotonic()
    if timeout_seconds <= 0:
        raise LockTimeoutError(path, 0.0)
    waiter = threading.Thread(target=_flock_and_close, args=(os.dup(fd),), daemon=True)
    waiter.start()
    waiter.join(timeout_seconds)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockTimeoutError(path, time.monotonic() - started) from None


def _flock_and_close(fd: int) -> None:
    # Closing the last descriptor of the open file also gives the lock back if nobody waits any more.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)
