"""Tools to test rule changes with: namespaces, networks and real connections that leave nothing behind.

Public, for other projects too; the pytest fixtures are in `nfkeep.testing.fixtures`.
"""

from __future__ import annotations

from nfkeep.namespaces import CommandFailedError, Namespace, sysctl
from nfkeep.testing.connections import Connection, abort_all, close_all, dial, living
from nfkeep.testing.polling import wait_until
from nfkeep.testing.server import EchoServer
from nfkeep.testing.sockets import Kind
from nfkeep.testing.topology import Gateway, IPAddress, add_address, add_route, batch, pair
from nfkeep.testing.transfer import Transfer, TransferResult

__all__ = [
    "CommandFailedError",
    "Connection",
    "EchoServer",
    "Gateway",
    "IPAddress",
    "Kind",
    "Namespace",
    "Transfer",
    "TransferResult",
    "abort_all",
    "add_address",
    "add_route",
    "batch",
    "close_all",
    "dial",
    "living",
    "pair",
    "sysctl",
    "wait_until",
]
