"""Who is at the other end of a connection, as the kernel says; nothing that a client sends about itself counts.

The kernel takes this down when a client calls connect(2): what becomes of its rights later makes no difference.
"""

from __future__ import annotations

import errno
import socket
import struct

import attrs

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_UCRED = struct.Struct("=iII")  # pid, uid, gid
_MOST = 1024  # bytes; as many as Python's getsockopt() takes, which is 256 groups


@attrs.frozen(slots=True)
class Peer:
    """A client. `groups` are its group and its supplementary groups.

    A client in another user namespace has the uid that this one maps it to, or else 65534. Its pid is for the log only:
    it may belong to another process by now.
    """

    pid: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """The client of a unix stream socket. Raises OSError.

        Of a client in more than 256 supplementary groups only its primary group is known, so it may do less, not more.
        """
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST)
        except OSError as error:
            if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):  # too many; a kernel before 4.13
                raise
            raw = b""
        return cls(pid, uid, frozenset([gid, *struct.unpack(f"={len(raw) // 4}I", raw)]))

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid})"
