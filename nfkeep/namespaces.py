"""Network namespaces without names, held by a file descriptor only: they vanish with the process that made them.

Nothing is written to /run/netns and nothing on the host changes: even SIGKILL leaves no namespace behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shlex
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nfkeep.errors import PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from io import FileIO
    from types import TracebackType
    from typing import IO

    from typing_extensions import Self

__all__ = ["CommandFailedError", "Namespace", "sysctl"]


class CommandFailedError(subprocess.CalledProcessError):
    """A command inside a namespace failed; its own words are in the message, and in `stderr`."""

    def __str__(self) -> str:
        said = (self.stderr or self.stdout or "").strip()
        return f"{shlex.join(self.cmd)}: exit status {self.returncode}" + (f": {said}" if said else "")


class Namespace:
    """A network namespace of its own, with `lo` up and duplicate address detection (IPv6) off.

    `with ns:` moves the *calling thread* into it and back; that nests, in any order of namespaces, and a socket opened
    meanwhile stays in the namespace for good. Threads and processes started meanwhile inherit it. Inside, read
    `/proc/thread-self/net`, not `/proc/net`: the latter shows the namespace of the process's main thread (and
    /sys/class/net that of its mount). /proc/sys/net follows the calling thread.

    The kernel removes the namespace once it is closed here and no process, socket or thread in it is left.

    Raises PermissionDeniedError without CAP_SYS_ADMIN, OSError where the kernel has no room for another one.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._handle: FileIO = _in_new_thread(_new_namespace)

    @property
    def path(self) -> str:
        """A path of the namespace that any process can open: `nsenter --net=PATH`, `ip link set … netns PATH`."""
        return f"/proc/{os.getpid()}/fd/{self.fileno()}"

    def fileno(self) -> int:
        """The descriptor that holds the namespace; ValueError after `close()`."""
        return self._handle.fileno()

    @property
    def inode(self) -> int:
        """What tells one namespace from another: the number in `net:[N]` of /proc/PID/ns/net."""
        return os.fstat(self.fileno()).st_ino

    def enter(self) -> Self:
        """Move the calling thread in; every `enter()` wants one `leave()` by the same thread. `with ns:` does both."""
        handle = _current()
        try:
            _setns(self.fileno())
        except BaseException:
            handle.close()
            raise
        _came_from().append(handle)
        return self

    def leave(self) -> None:
        """Move the calling thread back to where the last `enter()` found it."""
        with _came_from().pop() as handle:
            _setns(handle.fileno())

    __enter__ = enter

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what it said; a `str` is split as a shell would, but no shell runs.

        Raises CommandFailedError where `check` and the exit status is not 0, subprocess.TimeoutExpired after `timeout`
        seconds (the command is killed).
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self._spawn(command, stdin, subprocess.PIPE, subprocess.PIPE, env) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise CommandFailedError(process.returncode, _words(command), stdout, stderr)
        return subprocess.CompletedProcess(_words(command), process.returncode, stdout, stderr)

    def popen(
        self,
        command: str | Sequence[str],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command inside (pipes carry text). `close()` kills it if it still runs then."""
        process = self._spawn(command, stdin, stdout, stderr, env)
        self._processes = [*(other for other in self._processes if other.poll() is None), process]
        return process

    def close(self) -> None:
        """Kill what `popen` started and let go of the namespace; calling it again does nothing."""
        while self._processes:
            with self._processes.pop() as process:  # leaving closes the pipes and waits
                process.kill()
        self._handle.close()

    def _spawn(
        self,
        command: str | Sequence[str],
        stdin: int | IO[str] | None,
        stdout: int | IO[str] | None,
        stderr: int | IO[str] | None,
        env: Mapping[str, str] | None,
    ) -> subprocess.Popen[str]:
        with self:  # a child is born in the network namespace of the thread that forks it
            return subprocess.Popen(_words(command), stdin=stdin, stdout=stdout, stderr=stderr, env=env, text=True)

    def __repr__(self) -> str:
        return "<Namespace closed>" if self._handle.closed else f"<Namespace net:[{self.inode}]>"


def sysctl(namespace: Namespace, key: str, value: int | str | None = None) -> str:
    """Write `value` (unless None) to a sysctl below `net.` inside the namespace, and return what it reads then.

    `key` is written as for sysctl(8): with dots, or with slashes where an interface name has a dot in it.
    """
    path = Path("/proc/sys", *(key.split("/") if "/" in key else key.split(".")))
    with namespace:
        if value is not None:
            path.write_text(str(value))
        return path.read_text().strip()


_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h

_libc = ctypes.CDLL(None, use_errno=True)
_thread = threading.local()


def _came_from() -> list[FileIO]:
    """The namespaces that the calling thread goes back to, the nearest one last."""
    stack: list[FileIO] = _thread.__dict__.setdefault("came_from", [])
    return stack


def _current() -> FileIO:
    return open("/proc/thread-self/ns/net", "rb", buffering=0)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        _raise(ctypes.get_errno(), "entering a network namespace")


def _raise(number: int, doing: str) -> None:
    if number == errno.EPERM:
        raise PermissionDeniedError(doing, "root, or the capability CAP_SYS_ADMIN")
    raise OSError(number, f"{doing}: {os.strerror(number)}")


def _new_namespace() -> FileIO:
    """Make the calling thread's namespace a new one; to be called on a thread that ends right after."""
    if _libc.unshare(_CLONE_NEWNET):
        _raise(ctypes.get_errno(), "making a network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack("16sH22x", request)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
    for scope in ("all", "default"):
        setting = Path("/proc/sys/net/ipv6/conf", scope, "accept_dad")
        if setting.exists():  # not where the kernel runs without IPv6
            setting.write_text("0")
    return _current()


def _in_new_thread(function: Callable[[], FileIO]) -> FileIO:
    results: list[FileIO] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def _words(command: str | Sequence[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)
