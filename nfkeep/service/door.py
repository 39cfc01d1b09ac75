"""Lets clients in, as far as there is room: so many connections in all, and so many of one user.

Who is turned away is told why; that costs less than a connection, and those who are in do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable

from nfkeep.service import protocol
from nfkeep.service.config import Config
from nfkeep.service.connection import Connection
from nfkeep.service.peer import Peer
from nfkeep.service.protocol import Refusal, Trouble

_ACCEPTED_AT_ONCE = 8  # then those that are connected have a turn
_OTHER_FILES = 64  # that the process opens, beside connections
_PAUSE_SECONDS = 0.2  # without accepting, when it failed

_log = logging.getLogger("nfkeep.service")


class Door:
    """Accepts from a listening socket until it is closed. `enter` makes the protocol for a client and when it ends."""

    def __init__(
        self,
        listening: socket.socket,
        config: Config,
        enter: Callable[[Peer, Callable[[Connection], None]], Connection],
    ) -> None:
        self.connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._enter = enter
        self._counts: Counter[int] = Counter()  # by uid
        self._tasks: set[asyncio.Task[None]] = set()
        self.change_limits(config)
        self._loop.add_reader(listening, self._accept)

    def change_limits(self, config: Config) -> None:
        """From now on let in as many as this configuration says; nobody who is in is sent away."""
        self._most, self._most_per_user = config.max_connections, config.max_connections_per_user
        _allow_files(self._most)

    async def close(self) -> None:
        """Let nobody in any more; who is half in gets in. The socket is left as it is."""
        self._loop.remove_reader(self._listening)
        await asyncio.gather(*self._tasks)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock = self._listening.accept()[0]
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # no file or memory is left
                _log.error("no client can be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_PAUSE_SECONDS, self._accept_again)
                return
            try:
                peer = Peer.of(sock)
            except OSError as error:
                _log.error("a client of whom the kernel tells nothing: %s", error.strerror)
                sock.close()
                continue
            self._admit(sock, peer)

    def _accept_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)

    def _admit(self, sock: socket.socket, peer: Peer) -> None:
        sock.setblocking(False)
        if self._counts[peer.uid] >= self._most_per_user:
            _turn_away(sock, peer, f"you have {self._most_per_user} connections, as many as one user may")
        elif self._counts.total() >= self._most:
            _turn_away(sock, peer, f"there are {self._most} connections, as many as may be")
        else:
            self._counts[peer.uid] += 1
            task = self._loop.create_task(self._connect(sock, peer))
            self._tasks.add(task)  # the loop itself does not keep it
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, sock: socket.socket, peer: Peer) -> None:
        connection = self._enter(peer, self._ended)
        self.connections.add(connection)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:
            sock.close()
            self._ended(connection)

    def _ended(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self._counts[connection.uid] -= 1
            if not self._counts[connection.uid]:
                del self._counts[connection.uid]


def _turn_away(sock: socket.socket, peer: Peer, reason: str) -> None:
    _log.warning("%s is turned away: %s", peer, reason)
    with sock, contextlib.suppress(OSError):
        sock.send(protocol.refusal("null", Refusal(Trouble.BUSY, reason)))


def _allow_files(connections: int) -> None:
    """Raise the process's own limit of open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if wanted > soft:
        possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        if possible < wanted:
            _log.warning("max_connections is %d, but there may be no more than %d open files", connections, possible)
