"""One client's connection: cuts what it sends into lines, has them answered in order, and ends it if it only holds on.

It keeps no more than one line and one answer: while there is a line to answer nothing more is read from the client, and
while the client does not read its answers no line is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from nfkeep.service import protocol
from nfkeep.service.config import Config
from nfkeep.service.desk import Desk
from nfkeep.service.peer import Peer
from nfkeep.service.protocol import Refusal, Trouble
from nfkeep.service.turns import Turns

_log = logging.getLogger("nfkeep.service")


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection; `ended` is called with it when it is over."""

    def __init__(
        self, peer: Peer, config: Config, desk: Desk, turns: Turns, ended: Callable[[Connection], None]
    ) -> None:
        self.uid = peer.uid
        self._peer = peer
        self._desk = desk
        self._turns = turns
        self._ended = ended
        self._patience_seconds = config.idle_timeout
        self._buffer = bytearray(config.max_line + 1)  # and a line feed
        self._start = self._seen = self._end = 0  # of the next line; no line feed before; of what was received
        self._line_end = -1
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio has it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """As asyncio has it; called only while there is no whole line."""
        if self._start:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._seen, self._end = 0, self._seen - self._start, left
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """As asyncio has it."""
        self._end += nbytes
        if self._find_line():
            self._transport.pause_reading()
            self._turns.add(self)

    def take_turn(self) -> None:
        """Answer one line."""
        line = bytes(self._buffer[self._start : self._line_end])
        self._start = self._seen = self._line_end + 1
        answer = self._desk.answer(self._peer, line)
        if isinstance(answer, bytes):
            self._send(answer)
        else:
            self._task = asyncio.get_running_loop().create_task(self._send_later(answer))

    def pause_writing(self) -> None:
        """As asyncio has it: the client has not taken what was sent, and the kernel holds no more of it."""
        self._set_timer("it does not read its answers")

    def resume_writing(self) -> None:
        """As asyncio has it."""
        self._set_timer(None)
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio has it."""
        self._set_timer(None)
        self._turns.discard(self)
        self._ended(self)

    def close(self) -> None:
        """Close when the client has taken what was sent so far."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    async def _send_later(self, answer: Awaitable[bytes]) -> None:
        self._send(await answer)

    def _send(self, answer: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(answer)
        if not self._transport.get_write_buffer_size():
            self._go_on()

    def _go_on(self) -> None:
        if self._transport.is_closing():
            return
        if self._find_line():
            self._turns.add(self)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _find_line(self) -> bool:
        """Whether there is a whole line; if not, its rest has to come soon."""
        self._line_end = self._buffer.find(b"\n", self._seen, self._end)
        self._seen = self._end
        if self._line_end >= 0:
            self._set_timer(None)
            return True
        if self._end - self._start == len(self._buffer):
            self._cut(f"the line has more than {len(self._buffer) - 1} bytes", Trouble.TOO_LARGE)
        elif self._end > self._start and self._timer is None:
            self._set_timer("the rest of its line does not come")
        return False

    def _set_timer(self, reason: str | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if reason is not None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_seconds, self._give_up, reason)

    def _give_up(self, reason: str) -> None:
        _log.info("%s is cut off: %s", self._peer, reason)
        self._transport.abort()

    def _cut(self, reason: str, kind: Trouble) -> None:
        _log.info("%s is cut off: %s", self._peer, reason)
        self._transport.pause_reading()
        self._transport.write(protocol.refusal("null", Refusal(kind, reason)))
        self._transport.close()
