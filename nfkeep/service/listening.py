"""The socket that clients connect to: taken over from systemd, or made with the right mode and group from the start.

A socket file that a killed server left is replaced; one that somebody serves, or a file of another sort, is not.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

import attrs

from nfkeep.errors import NfkeepError

BACKLOG = 512
"""Connections that the kernel lets wait for being accepted."""
_FIRST_PASSED = 3  # sd_listen_fds(3)


class SocketError(NfkeepError):
    """The socket cannot be had. `path` ("" if it was to come from systemd), `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path or 'the socket from systemd'}: {reason}")


@attrs.frozen(slots=True, eq=False)
class Listener:
    """A listening unix stream socket. `made`: device and inode of its file, if this process made it."""

    socket: socket.socket
    path: str
    made: tuple[int, int] | None = None

    def close(self) -> None:
        """Close it, and remove its file if this process made it and it is still the same."""
        self.socket.close()
        if self.made is not None and _identity(self.path) == self.made:
            Path(self.path).unlink(missing_ok=True)


def passed(environment: MutableMapping[str, str]) -> Listener | None:
    """The socket that systemd passed to this process, or None; raises SocketError.

    The variables that say so are taken out of the environment, so that no child believes them.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return None
    if count != "1":
        raise SocketError("", f"{count} sockets were passed instead of one")
    try:
        found = socket.socket(fileno=_FIRST_PASSED)
    except OSError as error:
        raise SocketError("", f"descriptor {_FIRST_PASSED} is no socket: {error.strerror}") from None
    accepts = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM or not accepts:
        raise SocketError("", "it is not a unix stream socket that listens")
    found.set_inheritable(False)
    found.setblocking(False)
    return Listener(found, str(found.getsockname()))


def make(path: str, group: int | None) -> Listener:
    """A new socket, with mode 0660 and this group (None: that of the process); raises SocketError."""
    _clear_away(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    before = os.umask(0o117)  # so that there is no moment at which others could connect
    listener = Listener(made, path)
    try:
        made.bind(path)
        listener = Listener(made, path, _identity(path))
        if group is not None:
            os.chown(path, -1, group)
        made.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketError(path, f"it cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    return listener


def _clear_away(path: str) -> None:
    """Remove a socket that nobody serves any more; raises SocketError for anything else that is in the way."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketError(path, "something is there that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
            trying.setblocking(False)  # a server that is stopped, with its queue full, is one all the same
            trying.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass
    except OSError as error:
        raise SocketError(path, f"it cannot be looked at: {error.strerror}") from None
    raise SocketError(path, "another server is listening there")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
