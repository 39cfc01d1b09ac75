"""The few nf_tables messages that are too frequent for libnftables' text, packed and parsed by hand.

linux/netfilter/nf_tables.h (NFTA_OBJ_*, NFTA_COUNTER_*); what the kernel makes of them: nf_tables_api.c,
nf_tables_dump_obj(). Every length is checked against what was received.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

INET = 1
"""The family of `table inet`: NFPROTO_INET."""

_NETLINK_NETFILTER = 12
_NEWOBJ, _GETOBJ = 10 << 8 | 18, 10 << 8 | 19  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_REQUEST_DUMP, _INTERRUPTED = 0x301, 0x10  # NLM_F_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_OBJECT_COUNTER, _COUNTER_PACKETS = 1, 2
_HEADERS = 20  # struct nlmsghdr and nfgenmsg
_TRIES = 100
_MISSING = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}

_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_COUNT = struct.Struct("!Q")


class Reader:
    """A netlink socket that reads nf_tables, in the network namespace that was current when it was made.

    Not to be used by two threads at once. `close()` after nft deletions waits for an RCU grace period, some
    milliseconds. Raises PermissionDeniedError, UnsupportedError.
    """

    __slots__ = ("_buffer", "_sequence", "_socket")

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise _failure(error.errno or 0) from error
        # The kernel never lets a reader wait for long; this only keeps a lost answer from hanging the caller for ever.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 10, 0))
        self._socket.bind((0, 0))
        self._buffer = memoryview(bytearray(1 << 16))  # the kernel makes dump messages no larger than 32 KiB
        self._sequence = 0

    def counters(self, family: int, table: str) -> dict[str, int]:
        """The packets that each named counter of a table has seen; none if there is no such table.

        Raises PermissionDeniedError, UnsupportedError, NfkeepError.
        """
        name = table.encode() + b"\0"
        wanted = _attribute(_OBJ_TABLE, name) + _attribute(_OBJ_TYPE, struct.pack("!I", _OBJECT_COUNTER))
        for _ in range(_TRIES):
            found: dict[str, int] = {}
            for body in self._dump(_GETOBJ, _NEWOBJ, family, wanted):
                if body is None:
                    break
                of, counter, packets = _counter(body)
                if of == name:
                    found[counter] = packets
            else:
                return found
        raise NfkeepError("reading nf_tables: its rules kept changing while they were read")

    def close(self) -> None:
        """Close the socket; calling it again does nothing."""
        self._socket.close()

    def _dump(self, kind: int, answer: int, family: int, attributes: bytes) -> Iterator[bytes | None]:
        """The attributes of each message of a dump; None, in the end, if a change of the rules interrupted it."""
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        length = _HEADERS + len(attributes)
        header = _MESSAGE.pack(length, kind, _REQUEST_DUMP, self._sequence, 0)
        interrupted = False
        try:
            self._socket.send(header + struct.pack("=BBH", family, 0, 0) + attributes)
            while True:
                got = self._socket.recv_into(self._buffer)
                for got_kind, flags, body in _messages(bytes(self._buffer[:got]), self._sequence):
                    interrupted |= bool(flags & _INTERRUPTED)
                    if got_kind in (_ERROR, _DONE):
                        number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                        if number:
                            raise _failure(number)
                        if interrupted:
                            yield None
                        return
                    if got_kind == answer:
                        yield body[4:]
        except OSError as error:
            raise _failure(errno.ETIMEDOUT if error.errno == errno.EAGAIN else error.errno or 0) from error


def _messages(data: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and what follows the header of each message with this sequence number."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, flags, number, _ = _MESSAGE.unpack_from(data, at)
        if length < _MESSAGE.size or at + length > len(data):
            raise NfkeepError("reading nf_tables: a message from the kernel is cut short")
        if number == sequence:
            yield kind, flags, data[at + _MESSAGE.size : at + length]
        at += (length + 3) & ~3


def _counter(body: bytes) -> tuple[bytes, str, int]:
    """The table (with its NUL), name and packets of one counter object."""
    values = _attributes(body)
    packets = _attributes(values.get(_OBJ_DATA, b"")).get(_COUNTER_PACKETS, b"")
    if len(packets) != _COUNT.size:
        raise NfkeepError("reading nf_tables: a counter without a number of packets")
    name = values.get(_OBJ_NAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
    return values.get(_OBJ_TABLE, b""), name, _COUNT.unpack(packets)[0]


def _attributes(data: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > end:
            raise NfkeepError("reading nf_tables: an attribute from the kernel is cut short")
        values[kind & 0x3FFF] = data[at + 4 : at + length]  # NLA_TYPE_MASK
        at += (length + 3) & ~3
    return values


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _failure(number: int) -> NfkeepError:
    """The error for an errno: to be raised by the caller."""
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError("reading nf_tables")
    message = f"reading nf_tables: {os.strerror(number)}"
    return UnsupportedError(message, "nf_tables") if number in _MISSING else NfkeepError(message)
