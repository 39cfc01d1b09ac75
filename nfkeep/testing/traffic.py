"""Real connections by the thousand: an echo server, clients dialled all at once, and transfers that check every byte.

Each works through the kernel's own sockets, in namespaces; a thread serves one server or transfer, none a connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import random
import resource
import selectors
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep.namespaces import Namespace
    from nfkeep.testing.topology import IPAddress

__all__ = [
    "Connection",
    "EchoServer",
    "Kind",
    "Transfer",
    "TransferResult",
    "abort_all",
    "close_all",
    "dial",
    "living",
    "wait_until",
]

Kind: TypeAlias = Literal["tcp", "udp"]


class EchoServer:
    """Sends back whatever it gets, on real sockets in `namespace`, from one thread however many connections there are.

    `port` 0 picks a free one; read it back from `port`. Raises OSError where the address is not to be had.
    Making one raises the process's soft limit of open files to 65,536, or to its hard limit if that is lower.
    """

    def __init__(
        self, namespace: Namespace, family: Family, kind: Kind, address: str | IPAddress, port: int = 0
    ) -> None:
        _allow_many_files()
        with namespace:
            self._socket = socket.socket(family.value, _TYPES[kind])
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
            _reset(peer.socket)

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
        _reset(self.socket)

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
    _allow_many_files()
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
                connection = Connection(socket.socket(family.value, _TYPES[kind]), kind)
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


def wait_until(predicate: Callable[[], bool], timeout: float = 5.0, interval: float = 0.01) -> bool:
    """Poll until `predicate()` holds or `timeout` seconds are over; only for what has no event to wait for."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


_TYPES: dict[Kind, socket.SocketKind] = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_BACKLOG = 4096
_RECEIVE_BUFFER_BYTES = 1 << 24  # thousands of datagrams at once
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: one port may serve towards several destinations
_VERDICTS = {  # what a firewall on the way, or in OUTPUT, makes of an attempt to connect
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EACCES,
    errno.EPERM,
}
_PATTERN = random.Random(7).randbytes(65521)  # a prime length, so no chunk size repeats soon
_serial = itertools.count(1)


@attrs.define(slots=True, eq=False)
class _Peer:
    socket: socket.socket
    unsent: bytes = b""


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


def _reset(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        if sock.type == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def _known_bytes(offset: int, length: int) -> bytes:
    """The bytes of the endless pattern from `offset` on."""
    start = offset % len(_PATTERN)
    repeats = (start + length) // len(_PATTERN) + 1
    return (_PATTERN * repeats)[start : start + length]


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _widen_receive_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
