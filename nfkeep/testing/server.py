"""A server to have connections with: it echoes whatever comes, over TCP or UDP, and counts who came and how they left.

It works through the kernel's own sockets in a namespace, and one thread serves however many connections there are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import socket
import threading
from typing import TYPE_CHECKING

import attrs

from nfkeep.testing.sockets import SOCKET_TYPES, allow_many_files, close_with_reset

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.model import Family
    from nfkeep.namespaces import Namespace
    from nfkeep.testing.sockets import Kind
    from nfkeep.testing.topology import IPAddress

__all__ = ["EchoServer"]


class EchoServer:
    """Sends back whatever it gets, on real sockets in `namespace`, from one thread however many connections there are.

    `port` 0 picks a free one; read it back from `port`. Raises OSError where the address is not to be had.
    Making one raises the process's soft limit of open files to 65,536, or to its hard limit if that is lower.
    """

    def __init__(
        self, namespace: Namespace, family: Family, kind: Kind, address: str | IPAddress, port: int = 0
    ) -> None:
        allow_many_files()
        with namespace:
            self._socket = socket.socket(family.value, SOCKET_TYPES[kind])
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((str(address), port))
            if kind == "tcp":
                self._socket.listen(_BACKLOG)
            else:
                _widen_receive_buffer(self._socket)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._changed = threading.Condition()
        self._accepted = self._closed = self._resets = 0
        self._peers: set[_Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ, self._accept if kind == "tcp" else self._echo)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="nfkeep-echo", daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        """How many TCP connections it has accepted."""
        return self._accepted

    @property
    def closed(self) -> int:
        """How many of those the client has ended in good order."""
        return self._closed

    @property
    def resets(self) -> int:
        """How many of those ended by a reset or another error."""
        return self._resets

    @property
    def open(self) -> int:
        """How many of those are open."""
        return self._accepted - self._closed - self._resets

    def wait_for(self, predicate: Callable[[EchoServer], bool], timeout: float = 5.0) -> bool:
        """Wait until `predicate(server)` holds, looking again whenever one of the counts above changes."""
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self), timeout)

    def close(self) -> None:
        """Stop, and reset what is still open; calling it again does nothing."""
        if self._thread.is_alive():
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            os.close(self._stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        stopping = False
        while not stopping:
            for key, _ in self._selector.select():
                if key.data is None:
                    stopping = True
                else:
                    key.data()
        self._selector.close()
        self._socket.close()
        for peer in self._peers:
            close_with_reset(peer.socket)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError, or the client was gone before we came
            while True:
                connection = self._socket.accept()[0]
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = _Peer(connection)
                self._peers.add(peer)
                self._selector.register(connection, selectors.EVENT_READ, functools.partial(self._relay, peer))
                with self._changed:
                    self._accepted += 1
                    self._changed.notify_all()

    def _relay(self, peer: _Peer) -> None:
        try:
            if not peer.unsent:
                peer.unsent = peer.socket.recv(65536)
                if not peer.unsent:
                    self._drop(peer, reset=False)
                    return
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer, reset=True)
            return
        # while bytes are owed, nothing more is read: the client's own window holds it back
        events = selectors.EVENT_WRITE if peer.unsent else selectors.EVENT_READ
        if events != self._selector.get_key(peer.socket).events:
            self._selector.modify(peer.socket, events, functools.partial(self._relay, peer))

    def _drop(self, peer: _Peer, *, reset: bool) -> None:
        self._selector.unregister(peer.socket)
        peer.socket.close()
        self._peers.discard(peer)
        with self._changed:
            if reset:
                self._resets += 1
            else:
                self._closed += 1
            self._changed.notify_all()

    def _echo(self) -> None:
        with contextlib.suppress(OSError):  # BlockingIOError, or what an ICMP error left on the socket
            while True:
                data, client = self._socket.recvfrom(65536)
                with contextlib.suppress(OSError):  # a rule in OUTPUT may refuse the answer
                    self._socket.sendto(data, client)


_BACKLOG = 4096
_RECEIVE_BUFFER_BYTES = 1 << 24  # thousands of datagrams at once
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


@attrs.define(slots=True, eq=False)
class _Peer:
    socket: socket.socket
    unsent: bytes = b""


def _widen_receive_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
