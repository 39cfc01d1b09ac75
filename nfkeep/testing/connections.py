"""Clients by the thousand: connections to an echo server, dialled, tried and closed all at once.

They are the kernel's own sockets, in namespaces; no thread is spent on any, as one selector drives them together.
"""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING

from nfkeep.testing.sockets import SOCKET_TYPES, allow_many_files, close_with_reset

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from nfkeep.model import Family
    from nfkeep.namespaces import Namespace
    from nfkeep.testing.sockets import Kind
    from nfkeep.testing.topology import IPAddress

__all__ = ["Connection", "abort_all", "close_all", "dial", "living"]


class Connection:
    """One admitted connection to an `EchoServer`; `dial` makes them. Not for use by two threads at once."""

    def __init__(self, sock: socket.socket, kind: Kind) -> None:
        self.socket = sock
        self.kind: Kind = kind
        self._owed = bytearray()  # TCP: sent, and not echoed yet

    @property
    def local(self) -> tuple[str, int]:
        """Its own address and port, as the client sees them."""
        name = self.socket.getsockname()
        return name[0], name[1]

    @property
    def remote(self) -> tuple[str, int]:
        """The address and port it was dialled to (not what DNAT made of them)."""
        name = self.socket.getpeername()
        return name[0], name[1]

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.socket.fileno()

    def alive(self, timeout: float = 1.0) -> bool:
        """Whether data goes both ways: sends bytes never sent before and waits for their echo. See also `living`."""
        return bool(living([self], timeout))

    def close(self, timeout: float = 1.0) -> None:
        """Close in good order; for TCP wait up to `timeout` for the server's FIN. See also `close_all`."""
        close_all([self], timeout)

    def abort(self) -> None:
        """Close with a reset (TCP), or just close (UDP)."""
        close_with_reset(self.socket)

    def __repr__(self) -> str:
        if self.fileno() < 0:
            return f"<Connection {self.kind} closed>"
        return f"<Connection {self.kind} {self.local[0]}:{self.local[1]}>"

    def _admission(self) -> Generator[int, None, None]:
        for _ in range(1 if self.kind == "tcp" else 2):
            yield from self._exchange()

    def _exchange(self) -> Generator[int, None, None]:
        token = struct.pack("!4sQI", b"nfkp", next(_serial), os.getpid())
        yield selectors.EVENT_WRITE  # for TCP this waits for the handshake; `send` raises what came of it
        if self.socket.send(token) != len(token):
            raise BlockingIOError(errno.EAGAIN, "the connection takes no data")
        if self.kind == "udp":
            while True:
                yield selectors.EVENT_READ
                if self.socket.recv(65536) == token:  # older ones are late echoes
                    return
        self._owed += token
        while self._owed:
            yield selectors.EVENT_READ
            data = self.socket.recv(len(self._owed))
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
            if not self._owed.startswith(data):
                raise ConnectionAbortedError(errno.EBADMSG, "the echo differs from what was sent")
            del self._owed[: len(data)]

    def _farewell(self) -> Generator[int, None, None]:
        if self.kind == "tcp":
            self.socket.shutdown(socket.SHUT_WR)
            data = b"unread echoes, if any"
            while data:
                yield selectors.EVENT_READ
                data = self.socket.recv(65536)


def dial(
    namespace: Namespace,
    family: Family,
    kind: Kind,
    address: str | IPAddress,
    port: int,
    count: int = 1,
    *,
    source: str | IPAddress | Iterable[str | IPAddress] | None = None,
    timeout: float = 2.0,
) -> list[Connection]:
    """Dial an `EchoServer` `count` times at once from `namespace`, and return the connections that were admitted.

    Admitted means that data came back: one echo over TCP, two over UDP. The others (refused, reset, or silent for
    `timeout` seconds) are closed with a reset, and cost one timeout in total. `source` gives the address to dial from;
    of several, the connections take turns. The caller closes what is returned.

    Raises OSError for what is no verdict of a firewall: a source address not there, no free port, no file left.
    """
    allow_many_files()
    if source is None:
        sources: Iterator[str | None] = itertools.repeat(None)
    elif isinstance(source, str) or not hasattr(source, "__iter__"):
        sources = itertools.repeat(str(source))
    else:
        sources = itertools.cycle([str(one) for one in source])
    connections: list[Connection] = []
    begun: list[Connection] = []
    try:
        with namespace:
            for local in itertools.islice(sources, count):
                connection = Connection(socket.socket(family.value, SOCKET_TYPES[kind]), kind)
                connections.append(connection)
                if _begin(connection, local, (str(address), port)):
                    begun.append(connection)
        admitted = _drive({connection: connection._admission() for connection in begun}, timeout)
    except BaseException:
        abort_all(connections)
        raise
    abort_all(set(connections).difference(admitted))
    return admitted


def living(connections: Iterable[Connection], timeout: float = 1.0) -> list[Connection]:
    """Those through which data goes both ways, in their order; all are tried at once."""
    open_ones = [connection for connection in connections if connection.fileno() >= 0]
    return _drive({connection: connection._exchange() for connection in open_ones}, timeout)


def close_all(connections: Iterable[Connection], timeout: float = 1.0) -> None:
    """Close all in good order and wait, up to `timeout` seconds in total, for the server's side to close as well."""
    tasks = {connection: connection._farewell() for connection in connections if connection.fileno() >= 0}
    _drive(tasks, timeout)
    for connection in tasks:
        connection.socket.close()


def abort_all(connections: Iterable[Connection]) -> None:
    """`Connection.abort` for each."""
    for connection in connections:
        connection.abort()


_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: one port may serve towards several destinations
_VERDICTS = {  # what a firewall on the way, or in OUTPUT, makes of an attempt to connect
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EACCES,
    errno.EPERM,
}
_serial = itertools.count(1)


def _begin(connection: Connection, local: str | None, remote: tuple[str, int]) -> bool:
    """Start to connect; False if it was refused on the spot."""
    sock = connection.socket
    sock.setblocking(False)
    if connection.kind == "tcp":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if local is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((local, 0))
    result = sock.connect_ex(remote)
    if result not in {0, errno.EINPROGRESS, *_VERDICTS}:
        raise OSError(result, f"dialling {remote[0]} port {remote[1]} from {local}: {os.strerror(result)}")
    return result in {0, errno.EINPROGRESS}


def _drive(tasks: dict[Connection, Generator[int, None, None]], timeout: float) -> list[Connection]:
    """Run all tasks at once; the connections whose task came to its end, within `timeout`, without an OSError.

    A task yields the selector events that it waits for.
    """
    deadline = time.monotonic() + timeout
    done: set[Connection] = set()
    with selectors.DefaultSelector() as selector:
        for connection, task in tasks.items():
            _advance(selector, connection, task, done)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                connection = key.data
                _advance(selector, connection, tasks[connection], done)
    for task in tasks.values():
        task.close()
    return [connection for connection in tasks if connection in done]


def _advance(
    selector: selectors.BaseSelector,
    connection: Connection,
    task: Generator[int, None, None],
    done: set[Connection],
) -> None:
    registered = selector.get_map().get(connection)
    try:
        events = next(task)
    except (StopIteration, OSError) as end:
        if registered:
            selector.unregister(connection)
        if isinstance(end, StopIteration):
            done.add(connection)
        return
    if registered is None:
        selector.register(connection, events, connection)
    elif registered.events != events:
        selector.modify(connection, events, connection)
