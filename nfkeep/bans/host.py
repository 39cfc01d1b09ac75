"""Whom a ban on this host would cut off from it: its own addresses, its gateways, and who is logged in over SSH.

Addresses and routes come from rtnetlink (linux/rtnetlink.h), asked directly: it is done at each start of a command.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import TypeAlias

from nfkeep.nft.wire import attributes

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_RTM_GETADDR, _RTM_GETROUTE = 22, 26
_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_GATEWAY, _RTA_MULTIPATH = 5, 9
_RTNEXTHOP = struct.Struct("=HBBi")
_IFADDRMSG, _RTMSG = 8, 12  # sizes


class Host:
    """What rtnetlink tells of the network namespace that was current when this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def own_addresses(self) -> set[IPAddress]:
        """The addresses of all interfaces."""
        found: set[IPAddress] = set()
        for data in self._dump(_RTM_GETADDR):
            told = dict(attributes(data[_IFADDRMSG:]))
            address = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)  # the peer's, on a point-to-point link
            if address is not None:
                found.add(ipaddress.ip_address(address))
        return found

    def gateways(self) -> set[IPAddress]:
        """The gateways of all routes."""
        found: set[IPAddress] = set()
        for data in self._dump(_RTM_GETROUTE):
            told = dict(attributes(data[_RTMSG:]))
            hops = [told, *(_hops(told[_RTA_MULTIPATH]) if _RTA_MULTIPATH in told else ())]
            found.update(ipaddress.ip_address(hop[_RTA_GATEWAY]) for hop in hops if _RTA_GATEWAY in hop)
        return found

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def _dump(self, kind: int) -> Iterator[bytes]:
        self._sequence += 1
        self._socket.sendto(
            struct.pack("=IHHIIB3x", 20, kind, _REQUEST_DUMP, self._sequence, 0, socket.AF_UNSPEC), (0, 0)
        )
        while True:
            data, at = self._socket.recv(1 << 17), 0
            while at + 16 <= len(data):
                length, answer, _, sequence = struct.unpack_from("=IHHI", data, at)
                if sequence == self._sequence and answer in (_NLMSG_DONE, _NLMSG_ERROR):
                    return
                if sequence == self._sequence:
                    yield data[at + 16 : at + length]
                at += max(length + (-length & 3), 16)


def ssh_peers() -> set[IPAddress]:
    """Who is at the other end of the SSH session that this process belongs to; sudo hides it, the parents tell."""
    found: set[IPAddress] = set()
    for environment in _environments():
        for variable in (b"SSH_CONNECTION", b"SSH_CLIENT"):
            words = environment.get(variable, b"").decode(errors="replace").split()
            try:
                found.add(_unmapped(ipaddress.ip_address(words[0].partition("%")[0])))
            except (IndexError, ValueError):
                continue
    return found


def _unmapped(address: IPAddress) -> IPAddress:
    return getattr(address, "ipv4_mapped", None) or address


def _environments() -> Iterator[dict[bytes, bytes]]:
    """Of this process and its ancestors, as far as they may be read."""
    yield dict(os.environb)
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/stat", "rb") as stat:
                pairs = [entry.partition(b"=") for entry in environ.read().split(b"\0")]
                pid = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it has ended, or is somebody else's
            return
        yield {name: value for name, _, value in pairs}


def _hops(data: bytes) -> Iterator[dict[int, bytes]]:
    at = 0
    while at + _RTNEXTHOP.size <= len(data):
        length = _RTNEXTHOP.unpack_from(data, at)[0]
        yield dict(attributes(data[at + _RTNEXTHOP.size : at + length]))
        at += max(length + (-length & 3), _RTNEXTHOP.size)
