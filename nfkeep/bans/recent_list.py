"""One list of xt_recent, open to be changed: exact about what is in it, and never full without saying so.

The kernel answers nothing: not whether an address was in, nor whether it dropped the oldest one for a new one. So what
is in is read from the list's file and remembered. All that is remembered holds until another program has had a turn
(`nfkeep.bans.turns`); programs that take turns therefore never push each other's addresses out, however many they are.
What comes from elsewhere, by packets that meet a `--set` rule or by `echo +1.2.3.4 > …`, cannot be excluded: for its
sake the list is read again once a second while it is being changed, which costs some 2 µs for each address in it.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Iterator

from nfkeep.bans.backend import Added
from nfkeep.bans.turns import Turns
from nfkeep.bans.values import Element, Kind
from nfkeep.errors import ListFullError, ListGoneError, NfkeepError, PermissionDeniedError
from nfkeep.xtables import recent
from nfkeep.xtables.jiffies import read_clock


class RecentList:
    """An open list of the calling thread's network namespace; for use from any namespace, by one thread at a time.

    `timeout_seconds`: after which an address has no effect any more, 0 for never. `lock_fd`: see `Turns`. Every method,
    and the making, raises ListGoneError once the list is gone: made anew under its name, it is another list.
    """

    def __init__(self, name: str, timeout_seconds: int, lock_fd: int) -> None:
        self.name = name
        self.capacity = recent.capacity()
        self._lasts = timeout_seconds or math.inf
        self._ends: dict[bytes, float] = {}  # on the monotonic clock, for all that is in the list
        self._read_again_at = -math.inf
        try:
            self._file = os.open(f"{recent.DIRECTORY}/{name}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ListGoneError(name) from None
        except PermissionError:
            raise PermissionDeniedError(f"opening the list {name} of xt_recent") from None
        try:
            self._turns = Turns(f"recent {name}", lock_fd)
            self._take, self._give = self._turns.take, self._turns.give
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let go of the file and the socket. Idempotent."""
        self._turns.close()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def add(self, keys: list[bytes]) -> Added:
        """Add packed addresses of either family, or stamp them anew; ListFullError for each that has no room.

        A full list loses nothing but addresses that are past their timeout.
        """
        refused: list[tuple[int, NfkeepError]] = []
        ends, size = self._ends, self.capacity.size
        commands = [_command(b"+", key) for key in keys]
        try:
            until = self._begin() + self._lasts
            for position, key in enumerate(keys):
                if key not in ends and len(ends) >= size and not self._make_room():
                    refused.append((position, self._full()))
                    continue
                self._write(commands[position])
                ends[key] = until
        except BaseException:
            self._forget()
            raise
        finally:
            self._give()
        return _ONE if len(keys) == 1 and not refused else Added(len(keys) - len(refused), refused)

    def add_host(self, key: bytes, text: bytes) -> bool:
        """Add one packed address by its text, the quick way; False if it takes the long one, and nothing was done."""
        ends, turns, now = self._ends, self._turns, _monotonic()
        known = turns.is_latest and now < self._read_again_at
        if not known or (key not in ends and len(ends) >= self.capacity.size):
            return False
        if _write_recent(self._file, turns.lock_fd, turns.ear_fd, b"+" + text) != 1:
            self._forget()
            return False
        ends[key] = now + self._lasts
        return True

    def remove(self, keys: list[bytes]) -> int:
        """Take packed addresses out; how many were in, and in force."""
        found = 0
        try:
            now = self._begin()
            for key in keys:
                self._write(_command(b"-", key))  # whether known or not: somebody else may have added it just now
                found += self._ends.pop(key, -math.inf) >= now
        except BaseException:
            self._forget()
            raise
        finally:
            self._give()
        return found

    def flush(self) -> None:
        """Take all addresses out."""
        try:
            self._take()
            self._forget()
            self._write(b"/")
        finally:
            self._give()

    def elements(self, kind: Kind) -> Iterator[Element]:
        """What is in force of a kind; without a clock to tell their age, all are taken for new."""
        now = self._look()
        for key, end in list(self._ends.items()):
            if len(key) == kind.key_bytes and end >= now:
                yield Element(key, _milliseconds(self._lasts), _milliseconds(end - now))

    def used(self) -> int:
        """How many addresses take up room, in force or not."""
        self._look()
        return len(self._ends)

    def is_alive(self) -> bool:
        """Whether this list is still there."""
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
        except OSError:
            return False
        return True

    def _begin(self) -> float:
        """Take a turn and know what is in the list; the time. The caller ends the turn, whatever comes of this."""
        still_known = self._take()
        now = _monotonic()
        return now if still_known and now < self._read_again_at else self._read()

    def _forget(self) -> None:
        """Whatever was begun may be half done."""
        self._read_again_at = -math.inf

    def _look(self) -> float:
        """Read the list in a turn of our own; the time then."""
        try:
            self._take()
            return self._read()
        finally:
            self._give()

    def _read(self) -> float:
        self._forget()
        parts = []
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            while part := os.read(self._file, 1 << 16):
                parts.append(part)
        except OSError as error:
            raise self._because(error) from None
        stamps = recent.parse(b"".join(parts))
        now = time.monotonic()
        self._ends.clear()
        clock = read_clock() if stamps and self._lasts < math.inf else None
        for key, stamp in stamps.items():
            self._ends[key] = now + self._lasts - (clock.age_seconds(stamp) if clock is not None else 0.0)
        self._read_again_at = now + _TRUSTED_SECONDS
        return now

    def _make_room(self) -> bool:
        """For one address, in a list that seems full: somebody may have taken one out, or one is past its timeout."""
        now = self._read()
        over = [key for key, end in self._ends.items() if end < now]
        for key in over:
            self._write(_command(b"-", key))
            del self._ends[key]
        return len(self._ends) < self.capacity.size

    def _write(self, command: bytes) -> None:
        # One command a call, at offset 0; the file knows no pwrite(2) (seq_open()).
        try:
            _lseek(self._file, 0, 0)
            _write_file(self._file, command)
        except OSError as error:
            raise self._because(error) from None

    def _because(self, error: OSError) -> Exception:
        # A file of /proc whose entry was removed: EIO from read and write, EINVAL from lseek (fs/proc/inode.c).
        gone = error.errno == errno.EIO or (error.errno == errno.EINVAL and not self.is_alive())
        return ListGoneError(self.name) if gone else error

    def _full(self) -> ListFullError:
        found = "/sys does not show the limit, so it may be higher; " if self.capacity.is_module is None else ""
        why = "xt_recent would silently drop the oldest address for a new one"
        return ListFullError(self.name, self.capacity.size, f"{why}; {found}{_REMEDIES[self.capacity.is_module]}")


_TRUSTED_SECONDS = 1.0
_ONE = Added(1)  # to make it takes a tenth of the time of adding one
_monotonic, _lseek, _write_file = time.monotonic, os.lseek, os.write
_write_recent = recent.write_recent
_AT_BOOT = "boot the kernel with xt_recent.ip_list_tot=20000 on its command line"
_IN_MODULE = "put `options xt_recent ip_list_tot=20000` into /etc/modprobe.d/xt_recent.conf, and reload it or reboot"
_REMEDIES = {True: _IN_MODULE, False: _AT_BOOT, None: f"{_IN_MODULE}; or, if it is built in, {_AT_BOOT}"}
_FIRST, _NEXT = ([b"%b%d" % (before, octet) for octet in range(256)] for before in (b"", b"."))


def _milliseconds(seconds: float) -> int:
    """Where 0 stands for ever, the last moment is 1."""
    return 0 if seconds == math.inf else max(1, round(seconds * 1000))


def _command(sign: bytes, key: bytes) -> bytes:
    if len(key) == 4:
        first, second, third, fourth = key
        return sign + _FIRST[first] + _NEXT[second] + _NEXT[third] + _NEXT[fourth]
    return sign + socket.inet_ntop(socket.AF_INET6, key).encode()
