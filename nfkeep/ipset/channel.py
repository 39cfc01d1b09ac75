"""A netlink socket to ipset: bytes go out, and the errno of each message or the answers to a question come back.

The kernel works a message off within send() (netlink_unicast_kernel() in net/netlink/af_netlink.c), so all answers
are there when it returns: nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import FileIO

from nfkeep.errors import CommitError, UnsupportedError
from nfkeep.ipset.messages import Pair
from nfkeep.ipset.refusals import refusal
from nfkeep.namespaces import Namespace

_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10  # linux/netlink.h
_NETLINK_NETFILTER = 12
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_ANSWER = struct.Struct("=4xHxxI4xi")  # its type and sequence number, and the number that follows: minus an errno
_RECEIVE_BYTES = 1 << 20
_ONE_ANSWER, _ANY_ANSWER = 1024, 1 << 17
_LAST_SEQUENCE = 0x7FFF0000
_HERE = "/proc/thread-self/ns/net"


class Channel:
    """A socket in the network namespace that is current when it is made; for one thread at a time.

    A child process that inherits one gets a socket of its own, in the same namespace, when it first uses it.
    Raises PermissionDeniedError, UnsupportedError.
    """

    def __init__(self) -> None:
        self._socket = _connected()
        self._namespace = _Here()
        self._inherited = False
        self._sequence = 1
        _channels.add(self)

    def inside(self) -> AbstractContextManager[object]:
        """Move the calling thread into the socket's namespace, and back at the end."""
        return contextlib.nullcontext() if self._namespace.is_current() else self._namespace

    def next(self, count: int) -> int:
        """The first of so many sequence numbers in a row, of a socket that is this process's own."""
        if self._inherited:
            self._renew()
        first = self._sequence if self._sequence <= _LAST_SEQUENCE else 1
        self._sequence = first + count
        return first

    def send(self, data: bytes) -> None:
        """Let the kernel work off one or more messages."""
        try:
            self._socket.send(data)
        except OSError as error:
            raise refusal(error.errno or errno.EIO, "asking ipset") from error

    def pair(self, pack: Pair, item: bytes) -> tuple[int, int]:
        """Send two messages, of which only the second asks to be acknowledged; the errno of each, 0 if it was done."""
        first = self._sequence
        if self._inherited or first > _LAST_SEQUENCE:
            first = self.next(0)
        self._sequence = first + 2
        try:
            self._socket.send(pack(first, item))
        except OSError as error:
            raise refusal(error.errno or errno.EIO, "asking ipset") from error
        refused = 0
        while True:
            _, sequence, number = _ANSWER.unpack_from(self._receive(_ONE_ANSWER))
            if sequence == first + 1:
                return refused, -number
            if sequence == first:
                refused = -number

    def errors(self, data: bytes, first: int, last: int) -> dict[int, tuple[int, bytes]]:
        """Send messages numbered from `first` to `last`, of which only the last asks to be acknowledged.

        Of each that was refused, by its number: the errno, and the kernel's copy of the message or its header. The last
        one is there in any case.
        """
        self.send(data)
        found: dict[int, tuple[int, bytes]] = {}
        while last not in found:
            answer = self._receive(_ANY_ANSWER)  # errors come one by one
            kind, sequence, number = _ANSWER.unpack_from(answer)
            if kind == _NLMSG_ERROR and first <= sequence <= last:
                found[sequence] = -number, answer[20:]
        return found

    def ask(self, data: bytes, sequence: int) -> bytes | int:
        """Send a question with one answer: its attributes, or the errno."""
        self.send(data)
        while True:
            for kind, number, content in _messages(self._receive(_ANY_ANSWER)):
                if number == sequence:
                    return content[4:] if kind != _NLMSG_ERROR else -_number(content)  # behind struct nfgenmsg

    def dump(self, data: bytes, sequence: int) -> list[bytes] | int:
        """Send a question with any number of answers: the attributes of each, or the errno.

        All of them are fetched at once: while it lists a set, the kernel neither swaps nor destroys it.
        """
        found: list[bytes] = []
        try:
            self.send(data)
            while True:
                for kind, number, content in _messages(self._receive(_ANY_ANSWER)):
                    if number != sequence:
                        continue
                    if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                        result = _number(content)
                        return -result if result < 0 else found
                    found.append(content[4:])
        except BaseException:
            self._drain()  # a signal's handler may raise; until the end of a dump the set is not free
            raise

    def sibling(self, port: int) -> socket.socket | None:
        """Another socket in the same namespace, with this port number; None if some socket there has it."""
        with self.inside():
            made = _new_socket()
        try:
            made.bind((port, 0))
        except OSError as error:
            made.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise refusal(error.errno or errno.EIO, "binding a netlink socket") from error
        _held.add(made)
        return made

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()
        self._namespace.close()

    def _receive(self, size: int) -> bytes:
        try:
            return self._socket.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            raise CommitError("ipset did not answer", applied=False, errno=errno.EIO) from error
        except OSError as error:
            raise refusal(error.errno or errno.EIO, "reading ipset's answer") from error

    def _drain(self) -> None:
        try:
            while self._socket.recv(_ANY_ANSWER, socket.MSG_DONTWAIT):
                pass
        except OSError:
            pass

    def _renew(self) -> None:
        with self._socket, self.inside():
            self._socket = _connected()
        self._inherited = False


class _Here(Namespace):
    """The network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._processes = []
        self._handle = _open(_HERE)

    def is_current(self) -> bool:
        return os.path.samestat(os.stat(_HERE), os.fstat(self.fileno()))


def _open(path: str) -> FileIO:
    return open(path, "rb", buffering=0)


def _connected() -> socket.socket:
    made = _new_socket()
    made.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    except PermissionError:
        pass  # not in the first user namespace; the usual buffer is enough for what is sent at once
    made.connect((0, 0))
    return made


def _new_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise UnsupportedError(f"no nfnetlink socket: {error}", "nfnetlink") from error


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and content of each message."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, _, sequence, _ = _HEAD.unpack_from(data, at)
        yield kind, sequence, data[at + _HEAD.size : at + length]
        at += max(length + (-length & 3), _HEAD.size)


def _number(content: bytes) -> int:
    """The int with which an error and the end of a dump begin."""
    return int(struct.unpack_from("=i", content)[0])


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()
_held: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: sockets whose answers the parent reads are not used, and what the parent holds is not held here."""
    for channel in list(_channels):
        channel._inherited = True
    for each in list(_held):
        each.close()


os.register_at_fork(after_in_child=_after_fork)
