"""The sockets that the server and the clients are made of: their kinds, room for many, and their end by a reset.

Nothing here knows of namespaces or of echoes.
"""

from __future__ import annotations

import resource
import socket
import struct
from typing import Literal, TypeAlias

__all__ = ["SOCKET_TYPES", "Kind", "allow_many_files", "close_with_reset"]

Kind: TypeAlias = Literal["tcp", "udp"]

SOCKET_TYPES: dict[Kind, socket.SocketKind] = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def allow_many_files() -> None:
    """Raise the process's soft limit of open files to 65,536, or to its hard limit if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def close_with_reset(sock: socket.socket) -> None:
    """Close with a reset (TCP), or just close (UDP); calling it again does nothing."""
    if sock.fileno() >= 0:
        if sock.type == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
