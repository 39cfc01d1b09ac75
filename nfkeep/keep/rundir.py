"""The run directory, /run/nfkeep: small files for this network namespace that do not outlive the system.

Nobody but root gets in. Each network namespace has a directory of its own in it, named after the namespace's number;
a file left by a namespace that is gone does no harm, since it is known by the namespace's cookie, which is never used
twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path

from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.xtables.lock import is_absent

DEFAULT = "/run/nfkeep"
VARIABLE = "NFKEEP_RUN_DIRECTORY"
"""The environment variable that names another directory."""

_VARIABLE, _DEFAULT = VARIABLE.encode(), DEFAULT.encode()
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14


def path(name: str) -> Path:
    """The place of a file of this network namespace; makes nothing."""
    return _base() / namespace() / name


def names(prefix: str) -> list[str]:
    """The files of this network namespace whose names begin so."""
    try:
        return sorted(each for each in os.listdir(path("")) if each.startswith(prefix))
    except FileNotFoundError:
        return []


def exists() -> bool:
    """Whether there is a run directory at all: a quick look. Raises NfkeepError if others could have written to it."""
    if is_absent(_VARIABLE, _DEFAULT):  # without an exception: this is asked before every change
        return False
    try:
        found = os.lstat(_base())
    except (FileNotFoundError, NotADirectoryError):
        return False
    _require_own(_base(), found)
    return True


def namespace() -> str:
    """What tells this network namespace from all others; before Linux 5.14 only from those that are alive."""
    number = os.stat("/proc/thread-self/ns/net").st_ino
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            cookie = int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:
            return f"net-{number}"
    return f"net-{number}-{cookie}"


def make() -> Path:
    """The directory of this network namespace, made if it is missing. Raises PermissionDeniedError, NfkeepError."""
    base = _base()
    try:
        while True:
            # A process of another namespace may remove the outer one, if it is empty, at any time.
            with contextlib.suppress(FileNotFoundError):
                _require_own(base, _made(base, parents=True))
                own = base / namespace()
                _require_own(own, _made(own, parents=False))
                return own
    except PermissionError:
        raise PermissionDeniedError(f"making the directory {base}", "root") from None
    except OSError as error:
        raise NfkeepError(
            f"the directory {base}, where nfkeep notes what is in flight, cannot be made: {error.strerror}; the "
            f"environment variable {VARIABLE} names another"
        ) from None


def _require_own(folder: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NfkeepError(
            f"{folder} does not belong to this user alone (a directory, mode 0700): remove it, nfkeep makes it"
        )


def _made(folder: Path, *, parents: bool) -> os.stat_result:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=parents)
    return folder.lstat()


class NotWrittenError(NfkeepError):
    """A file of the run directory cannot be written, as where it is full; there is none of it."""

    def __init__(self, place: Path, reason: str | None) -> None:
        super().__init__(f"{place} cannot be written: {reason}")


def write(name: str, content: bytes) -> None:
    """Write a file whole, or not at all. Raises NotWrittenError."""
    folder = make()
    unfinished = folder / f"{name}.new"
    os.close(create(unfinished, content))
    unfinished.replace(folder / name)


def create(place: Path, content: bytes, *, locked: bool = False) -> int:
    """A file with that content alone: its descriptor, which holds a lock on it if asked for. Raises NotWrittenError."""
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if locked:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            while content:
                content = content[os.write(descriptor, content) :]
        except BaseException:
            os.close(descriptor)
            place.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotWrittenError(place, error.strerror) from None
    return descriptor


def remove(name: str) -> None:
    """Remove a file, and the directory if it was the last one. Idempotent."""
    place = path(name)
    place.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        place.parent.rmdir()
        place.parent.parent.rmdir()


def _base() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT)
