"""Transfers over a connection that check every byte: what a change of rules did to data under way.

Each sends a known pattern from a thread of its own, and says of its echo what was lost, wrong, late or cut off.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.testing.connections import Connection

__all__ = ["Transfer", "TransferResult"]


@attrs.frozen(slots=True)
class TransferResult:
    """What came of a transfer. `error` is the kernel's, if the connection broke (`reset`)."""

    sent_bytes: int
    echoed_bytes: int
    reset: bool
    corrupt: bool
    stalled: bool
    longest_wait_seconds: float
    error: str | None = None

    @property
    def intact(self) -> bool:
        """Every byte that was sent came back, in order and unchanged."""
        return not (self.reset or self.corrupt or self.stalled) and self.sent_bytes == self.echoed_bytes


class Transfer:
    """Keeps sending known bytes over a TCP connection from a thread of its own, and checks each byte that comes back.

    A chunk of `chunk_bytes`, its echo, `pause_seconds` of rest (so that fifty transfers leave the machine some time),
    and on. The connection is the transfer's until `stop()`, and usable again after it; the transfer never closes it.
    """

    def __init__(self, connection: Connection, *, chunk_bytes: int = 4096, pause_seconds: float = 0.01) -> None:
        if connection.kind != "tcp":
            raise ValueError("a transfer needs a TCP connection: a lost datagram is no fault")
        self.connection = connection
        self._chunk_bytes, self._pause_seconds = chunk_bytes, pause_seconds
        self._sent = self._echoed = 0
        self._longest = 0.0
        self._corrupt = False
        self._error: OSError | None = None
        self._result: TransferResult | None = None
        self._progress = threading.Condition()
        self._stop = threading.Event()
        connection.socket.setblocking(True)
        self._thread = threading.Thread(target=self._run, name="nfkeep-transfer", daemon=True)
        self._thread.start()

    @property
    def echoed_bytes(self) -> int:
        """How many bytes came back so far, all of them right."""
        return self._echoed

    @property
    def broken(self) -> bool:
        """Whether it has ended by itself: by a reset, or by a wrong byte."""
        return self._error is not None or self._corrupt

    def wait_for(self, more_bytes: int, timeout: float = 5.0) -> bool:
        """Wait until `more_bytes` have come back from now on; False if it broke, or after `timeout` seconds."""
        with self._progress:
            goal = self._echoed + more_bytes
            self._progress.wait_for(lambda: self._echoed >= goal or self.broken, timeout)
            return self._echoed >= goal

    def stop(self, timeout: float = 5.0) -> TransferResult:
        """Let the chunk under way come back (else it is `stalled`), stop, and say what came of it all."""
        if self._result is None:
            self._stop.set()
            self._thread.join(timeout)
            stalled = self._thread.is_alive()
            if stalled:
                with contextlib.suppress(OSError):
                    self.connection.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
                self._thread.join()
            self.connection.socket.setblocking(False)
            self._result = TransferResult(
                self._sent,
                self._echoed,
                reset=self._error is not None and not stalled,
                corrupt=self._corrupt,
                stalled=stalled,
                longest_wait_seconds=self._longest,
                error=str(self._error) if self._error is not None and not stalled else None,
            )
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._corrupt:
                began = time.monotonic()
                self._one_chunk()
                self._longest = max(self._longest, time.monotonic() - began)
                self._stop.wait(self._pause_seconds)
        except OSError as error:
            self._error = error
        with self._progress:
            self._progress.notify_all()

    def _one_chunk(self) -> None:
        chunk = _known_bytes(self._sent, self._chunk_bytes)
        self.connection.socket.sendall(chunk)
        self._sent += len(chunk)
        while self._echoed < self._sent:
            data = self.connection.socket.recv(self._sent - self._echoed)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
            if data != _known_bytes(self._echoed, len(data)):
                self._corrupt = True
                return
            with self._progress:
                self._echoed += len(data)
                self._progress.notify_all()


_PATTERN = random.Random(7).randbytes(65521)  # a prime length, so no chunk size repeats soon


def _known_bytes(offset: int, length: int) -> bytes:
    """The bytes of the endless pattern from `offset` on."""
    start = offset % len(_PATTERN)
    repeats = (start + length) // len(_PATTERN) + 1
    return (_PATTERN * repeats)[start : start + length]
