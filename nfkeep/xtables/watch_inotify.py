"""Hears when the xtables lock file is opened, closed or taken away (inotify(7)); sees who holds it (/proc/locks)."""

from __future__ import annotations

import contextlib
import enum
import os
import struct

from nfkeep.xtables import _ffi

__all__ = ["Listener", "Sound", "held_by_another"]

# linux/inotify.h
_EVENT = struct.Struct("=iIII")  # struct inotify_event, before the name; files that are watched themselves have none
_OPEN = 0x00000020
_CLOSE = 0x00000008 | 0x00000010
_OVERFLOW = 0x00004000
_NAMES = 0x00000004 | 0x00000800  # IN_ATTRIB: also when a link goes; IN_MOVE_SELF


class Sound(enum.Enum):
    """What was heard. The kernel makes one of the same that follow each other, so there is nothing to count."""

    OPENED = enum.auto()
    CLOSED = enum.auto()
    RENAMED = enum.auto()  # or removed, or something about it that does not matter


class Listener:
    """Listens to the files given to `add`: always for RENAMED and, if `openings`, for the others.

    Raises OSError if the kernel gives no more inotify groups or watches (EMFILE, ENOSPC).
    """

    def __init__(self, *, openings: bool) -> None:
        self._openings = openings
        self._group = _ffi.listener_open()

    def add(self, file: int) -> None:
        """Listen to the file that the descriptor is open on."""
        _ffi.listener_add(self._group, file, openings=self._openings)

    def fileno(self) -> int:
        """Readable while there is something to hear."""
        return self._group

    def take(self) -> list[Sound]:
        """What was heard since the last call, in order."""
        sounds = []
        with contextlib.suppress(BlockingIOError):
            for _, mask, _, _ in _EVENT.iter_unpack(os.read(self._group, _EVENT.size * 256)):
                if mask & (_OPEN | _OVERFLOW):
                    sounds.append(Sound.OPENED)
                if mask & (_CLOSE | _OVERFLOW):
                    sounds.append(Sound.CLOSED)
                if mask & (_NAMES | _OVERFLOW):
                    sounds.append(Sound.RENAMED)
        return sounds

    def close(self) -> None:
        """Listen no more. Idempotent."""
        group, self._group = self._group, -1
        if group >= 0:
            os.close(group)


def held_by_another(device: int, inode: int) -> bool:
    """Whether another process holds the flock(2) of that file, or waits for it (fs/locks.c, lock_get_status()).

    Processes in other pid namespaces than those below the caller's are not seen.
    """
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    own = str(os.getpid())
    with open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            words = line.replace("->", "").split()  # number, kind, ADVISORY, WRITE, process, file, …
            if words[1] == "FLOCK" and words[5] == file and words[4] != own:
                return True
    return False
