"""Turns that programs take at something that all of them change: one at a time, and each knows if another came between.

The lock is flock(2) of the network namespace itself, and word of a turn goes by netlink multicast inside it: both are
gone with the programs and the namespace, however these end, and nothing is left in any file system.
"""

from __future__ import annotations

import errno
import socket
import zlib
from fcntl import LOCK_EX, LOCK_UN, flock

from nfkeep.errors import PermissionDeniedError

_NETLINK_USERSOCK = 2  # linux/netlink.h: for messages from program to program; it has 32 groups
_SOCKET = socket.SOL_SOCKET
_MEMINFO = 55  # SO_MEMINFO (asm-generic/socket.h); the first number is the memory of what waits to be read
_NOTHING = bytes(4)


class Turns:
    """One program's place among those that take turns at `name`, in the network namespace that `lock_fd` stands for.

    That is the calling thread's namespace, opened for this object alone. Raises PermissionDeniedError. A child made by
    fork(2) needs a `Turns` of its own, as it shares all descriptors with its parent.

    `is_latest`: no other program was heard of since this one's last turn; what `ear_fd` has waiting may say otherwise.
    """

    def __init__(self, name: str, lock_fd: int) -> None:
        self._word = name.encode()
        self._group = 1 << (zlib.crc32(self._word) % 32)
        self.lock_fd = lock_fd
        self.is_latest = False
        self._ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_USERSOCK)
        self.ear_fd = self._ear.fileno()
        try:
            self._ear.bind((0, self._group))
        except PermissionError:
            self.close()
            raise PermissionDeniedError("listening for other programs that ban") from None
        self._waiting = self._ear.getsockopt

    def take(self) -> bool:
        """Wait for the turn; then, whether no other program has had one since our last, which `give` ended.

        False on the first turn. All that a program knows from its last turn still holds if this is True. Turns are
        short; a program that is stopped (SIGSTOP) in its own keeps the others waiting.
        """
        flock(self.lock_fd, LOCK_EX)
        if self.is_latest and (self._waiting(_SOCKET, _MEMINFO, 4) == _NOTHING or not self._heard()):
            return True
        self.is_latest = False
        self._speak()
        self.is_latest = True
        return False

    def give(self) -> None:
        """End the turn."""
        flock(self.lock_fd, LOCK_UN)

    def close(self) -> None:
        """Let go of the socket; the lock's descriptor is the caller's. Idempotent."""
        self._ear.close()

    def _heard(self) -> bool:
        """Whether anything that was said is about the same name; all of it is taken out."""
        ours = False
        while True:
            try:
                ours |= self._ear.recv(256, socket.MSG_DONTWAIT) == self._word
            except BlockingIOError:
                return ours
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                ours = True  # more was said than there was room for

    def _speak(self) -> None:
        """Tell all others, who have it before this returns."""
        self._heard()
        try:
            self._ear.sendto(self._word, (0, self._group))
        except ConnectionRefusedError:
            pass  # the kernel, which is addressed besides the group, does not listen
