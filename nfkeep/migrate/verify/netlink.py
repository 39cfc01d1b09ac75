"""The few netlink messages of the harness, packed by hand: links, addresses, routes, packet logs, conntrack's flush."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUEST_ACK, _CREATE, _REPLACE, _DUMP = 0x5, 0x400, 0x100, 0x300  # NLM_F_*
_RTM_SETLINK, _RTM_NEWADDR, _RTM_NEWROUTE, _RTM_DELROUTE = 19, 20, 24, 25
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFF_UP, _IFF_NOARP = 1, 0x80
_RT_TABLE_MAIN, _RT_TABLE_LOCAL = 254, 255
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_NETLINK_NETFILTER = 12


class Link:
    """An rtnetlink socket in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def up(self, index: int) -> None:
        """Bring an interface up, without address resolution."""
        flags = _IFF_UP | _IFF_NOARP
        self._ask(_RTM_SETLINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags), "setting a link")

    def address(self, index: int, text: str) -> None:
        """Give an interface an address of its own, without a network around it."""
        family, packed = _packed(text)
        body = struct.pack("=BBBBi", family, len(packed) * 8, 0x02 if family == socket.AF_INET6 else 0, 0, index)
        body += attribute(2, packed) + attribute(1, packed)  # IFA_LOCAL, IFA_ADDRESS
        self._ask(_RTM_NEWADDR, _CREATE, body, f"adding {text}")

    def default(self, family: int, index: int) -> None:
        """Route everything that has no other route to an interface."""
        body = _route(family, 0, _RT_TABLE_MAIN, _RTN_UNICAST) + attribute(4, struct.pack("=i", index))
        self._ask(_RTM_NEWROUTE, _CREATE | _REPLACE, body, "setting the default route")

    def to(self, text: str, index: int | None) -> None:
        """Route one address to an interface; None: as all others. There are addresses that cannot be routed to."""
        family, packed = _packed(text)
        body = _route(family, len(packed) * 8, _RT_TABLE_MAIN, _RTN_UNICAST) + attribute(1, packed)
        kind, flags = _RTM_DELROUTE, 0
        if index is not None:
            kind, flags, body = _RTM_NEWROUTE, _CREATE | _REPLACE, body + attribute(4, struct.pack("=i", index))
        self._ask(kind, flags, body, f"routing {text}", errno.EINVAL, errno.ESRCH)

    def local(self, text: str, lo: int, *, wanted: bool) -> None:
        """Make an address the host's own, or no more; that it is so already is no error."""
        family, packed = _packed(text)
        body = _route(family, len(packed) * 8, _RT_TABLE_LOCAL, _RTN_LOCAL)
        body += attribute(1, packed) + attribute(4, struct.pack("=i", lo))  # RTA_DST, RTA_OIF
        kind = _RTM_NEWROUTE if wanted else _RTM_DELROUTE
        self._ask(kind, _CREATE if wanted else 0, body, f"routing {text}", errno.EEXIST, errno.ESRCH)

    def _ask(self, kind: int, flags: int, body: bytes, doing: str, *accepted: int) -> None:
        self._socket.send(message(kind, _REQUEST_ACK | flags, body))
        answer = self._socket.recv(1 << 16)
        number = -int(struct.unpack_from("=i", answer, 16)[0])
        if number and number not in accepted:
            raise failed(number, doing)


def _route(family: int, bits: int, table: int, kind: int) -> bytes:
    scope = 253 if kind == _RTN_UNICAST else 254  # RT_SCOPE_LINK, RT_SCOPE_HOST
    if family == socket.AF_INET6:
        scope = 0
    return struct.pack("=BBBBBBBBI", family, bits, 0, 0, table, 4, scope, kind, 0)


def _packed(text: str) -> tuple[int, bytes]:
    address = ipaddress.ip_address(text)
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), address.packed


class Netfilter:
    """An nfnetlink socket in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self.socket = socket.socket(socket.AF_NETLINK, flags, _NETLINK_NETFILTER)
        self.socket.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def ask(self, kind: int, family: int, resource: int, attributes: bytes, doing: str, *accepted: int) -> None:
        """Send one request and await its answer; raises the error that comes back, but for the accepted ones."""
        body = struct.pack("!BBH", family, 0, resource) + attributes
        self.socket.send(message(kind, _REQUEST_ACK, body))
        while True:
            for found, payload in messages(self.socket.recv(1 << 15)):
                if found == _NLMSG_ERROR:
                    number = -int(struct.unpack_from("=i", payload)[0])
                    if number and number not in accepted:
                        raise failed(number, doing)
                    return

    def flush_conntrack(self) -> None:
        """Forget every connection of the namespace: IPCTNL_MSG_CT_DELETE without a tuple."""
        self.ask(1 << 8 | 2, socket.AF_UNSPEC, 0, b"", "flushing conntrack")


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (max(length, 16) + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a body by their kinds."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    return found


def failed(number: int, doing: str) -> NfkeepError:
    """The error for an errno, to be raised by the caller."""
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(doing, "root, or the capability CAP_NET_ADMIN")
    return NfkeepError(f"{doing}: {os.strerror(number)}")
