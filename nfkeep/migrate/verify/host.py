"""A host to try rules on: a namespace with TAPs as its interfaces, into which packets are written one by one.

Everything that would make two hosts differ or send packets by themselves is off: address resolution, router discovery,
source validation, limits on ICMP errors, redirects.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from nfkeep.migrate.verify.netlink import Link, Netfilter
from nfkeep.migrate.verify.observed import MARKS_IN, TO_LOOPBACK, Log
from nfkeep.model import Family
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.migrate.verify.packet import Packet

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_SETTINGS = {
    "ipv4.ip_forward": 1,
    "ipv4.conf.{}.rp_filter": 0,
    "ipv4.conf.{}.accept_local": 1,
    "ipv4.conf.{}.route_localnet": 1,
    "ipv4.conf.{}.send_redirects": 0,
    "ipv4.conf.{}.accept_redirects": 0,
    "ipv4.conf.{}.accept_source_route": 1,
    "ipv4.icmp_ratelimit": 0,
    "ipv4.icmp_msgs_per_sec": 1000000,
    "ipv4.icmp_msgs_burst": 1000000,
    "ipv4.icmp_echo_ignore_broadcasts": 0,
    "ipv4.igmp_link_local_mcast_reports": 0,
    "ipv6.conf.{}.forwarding": 1,
    "ipv6.conf.{}.accept_ra": 0,
    "ipv6.conf.{}.accept_dad": 0,
    "ipv6.conf.{}.dad_transmits": 0,
    "ipv6.conf.{}.autoconf": 0,
    "ipv6.conf.{}.router_solicitations": 0,
    "ipv6.conf.{}.addr_gen_mode": 1,
    "ipv6.conf.{}.accept_source_route": 1,
    "ipv6.conf.{}.seg6_enabled": 1,
    "ipv6.icmp.ratelimit": 0,
    "ipv6.auto_flowlabels": 0,
    "ipv6.flowlabel_consistency": 0,
}
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """One of the two namespaces. `close()` lets it go."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.namespace = Namespace()
        self.names: dict[int, str] = {}
        self._taps: dict[str, int] = {}
        self._indexes: dict[str, int] = {}
        self._macs: dict[str, bytes] = {}
        self._default = ""
        self._local: set[str] = set()
        self._routes: dict[str, str] = {}
        self._raw: dict[tuple[int, int, int], socket.socket] = {}
        self._joined: dict[str, socket.socket] = {}
        with self.namespace:
            _settings()
            self._link, self.log, self.netfilter = Link(), Log(family), Netfilter()
            self._lo = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._lo.bind(("lo", 0))
            self._indexes["lo"] = socket.if_nametoindex("lo")
        self.names[self._indexes["lo"]] = "lo"
        self._own = {"127.0.0.1", "::1"}
        self._let_tcp_be()

    def close(self) -> None:
        """Close everything; the namespace goes with the last descriptor."""
        for number in self._taps.values():
            os.close(number)
        for each in (*self._raw.values(), *self._joined.values(), self._lo):
            each.close()
        self._link.close()
        self.log.close()
        self.netfilter.close()
        self.namespace.close()

    def add_interfaces(self, names: Iterable[str]) -> None:
        """Make TAPs of these names, where they are not there yet. Both hosts number them alike."""
        missing = [name for name in names if name not in self._indexes]
        if not missing:
            return
        with self.namespace:
            for name in missing:
                self._add(name)

    def begin(self) -> None:
        """Forget what packets have left behind: connections, routes, memberships, what was seen."""
        self.netfilter.flush_conntrack()
        while self._joined:
            self._joined.popitem()[1].close()
        for address in sorted(self._local):
            self._link.local(address, self._indexes["lo"], wanted=False)
        self._local.clear()
        for address in sorted(self._routes):
            self._link.to(address, None)
        self._routes.clear()
        self.add_interfaces(["in0", "out0"])
        self._set_default("out0")
        self.log.read()

    def send(self, packet: Packet) -> list[bytes]:
        """Let the packet go its way, and return what is logged of it and of what it causes (see observed.parse)."""
        self._route(packet)
        if packet.enters is None:
            self._send_own(packet)
        elif packet.enters == "lo":
            self._lo.send(self._frame(packet, bytes(6)))
        else:
            os.write(self._taps[packet.enters], self._frame(packet, self._macs[packet.enters]))
        logged = self.log.read()
        if packet.enters == "lo" or any(TO_LOOPBACK in body for body in logged):
            self.log.settle()
            logged += self.log.read()
        return logged

    def send_all(self, packets: Iterable[Packet]) -> None:
        """Let packets go their ways, whatever comes of them."""
        for packet in packets:
            self.send(packet)

    def _let_tcp_be(self) -> None:
        """No RST for what nobody listens to: it would end the connections that rules are to count.

        A policy of IPsec comes after the last hook (net/ipv4/tcp_ipv4.c: xfrm4_policy_check); where there is none to
        be had, connections end, on both hosts.
        """
        everywhere = "0.0.0.0/0" if self.family is Family.IPV4 else "::/0"
        with contextlib.suppress(FileNotFoundError):
            policy = f"ip xfrm policy add src {everywhere} dst {everywhere} proto tcp dir in action block"
            self.namespace.run(policy, check=False)

    def _add(self, name: str) -> None:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        except OSError:
            os.close(tap)
            raise
        number = len(self._taps) + 1
        index = self._indexes[name] = socket.if_nametoindex(name)
        self._taps[name], self.names[index] = tap, name
        self._macs[name] = bytes([2, 0, 0, 0xBB, number >> 8, number & 0xFF])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:  # SIOCSIFHWADDR
            fcntl.ioctl(control, 0x8924, struct.pack("16sH6s16x", name.encode(), 1, self._macs[name]))
        self._link.up(index)
        addresses = [f"198.18.{number >> 8}.{number & 0xFF}"]
        if os.path.isdir("/proc/sys/net/ipv6"):
            addresses.append(f"2001:db8:18::{number:x}")
        for address in addresses:
            self._link.address(index, address)
        self._own.update(addresses)

    def _route(self, packet: Packet) -> None:
        local = packet.leaves is None or packet.leaves == "lo"
        if packet.leaves is not None and packet.leaves != "lo":
            if packet.destination in self._routes:
                self._set_route(packet.destination, packet.leaves)
            else:
                self._set_default(packet.leaves)
        if packet.is_multicast:
            self._join(packet)
        elif packet.destination not in self._own:
            self._make_local(packet.destination, local)
        if packet.enters is not None and packet.enters != "lo" and packet.source not in self._own:
            self._make_local(packet.source, False)
            self._set_route(packet.source, packet.back or packet.enters)

    def _make_local(self, address: str, wanted: bool) -> None:
        if wanted != (address in self._local):
            self._link.local(address, self._indexes["lo"], wanted=wanted)
            (self._local.add if wanted else self._local.discard)(address)

    def _set_route(self, address: str, name: str) -> None:
        if self._routes.get(address) != name:
            self._link.to(address, self._indexes[name])
            self._routes[address] = name

    def _set_default(self, name: str) -> None:
        if name != self._default:
            six = self.family is Family.IPV6
            self._link.default(socket.AF_INET6 if six else socket.AF_INET, self._indexes[name])
            self._default = name

    def _join(self, packet: Packet) -> None:
        """Membership of the group on the packet's interface, where the packet is for the host itself."""
        key = f"{packet.destination}%{packet.enters}"
        if packet.leaves is not None or packet.enters is None or key in self._joined:
            return
        index = self._indexes[packet.enters]
        group = socket.inet_pton(socket.AF_INET6 if self.family is Family.IPV6 else socket.AF_INET, packet.destination)
        with self.namespace:
            if self.family is Family.IPV6:
                member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                option: tuple[int, int, bytes] = (socket.IPPROTO_IPV6, 20, group + struct.pack("=i", index))
            else:
                member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                option = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + struct.pack("=4xi", index))
        self._joined[key] = member
        with contextlib.suppress(OSError):  # a limit on memberships: the packet is not delivered then, on either host
            member.setsockopt(*option)

    def _frame(self, packet: Packet, own: bytes) -> bytes:
        kind = 0x86DD if self.family is Family.IPV6 else 0x0800
        source = packet.source_mac if not packet.mark else MARKS_IN + struct.pack("=I", packet.mark)
        tag = b"" if packet.tag is None else struct.pack("!HH", 0x8100, packet.tag)
        return (packet.destination_mac or own) + source + tag + struct.pack("!H", kind) + packet.bytes

    def _send_own(self, packet: Packet) -> None:
        sender = self._raw.get((packet.uid, packet.gid, packet.mark))
        if sender is None:
            sender = self._raw[packet.uid, packet.gid, packet.mark] = self._raw_socket(packet)
        if self.family is Family.IPV6:
            scope = self._indexes.get(packet.leaves or "", 0) if packet.destination.startswith(("fe8", "ff")) else 0
            target: tuple[object, ...] = (packet.destination, 0, 0, scope)
        else:
            target = (packet.destination, 0)
        with contextlib.suppress(OSError):  # a rule's DROP is told as EPERM: what came out is what counts
            sender.sendto(packet.bytes, target)

    def _raw_socket(self, packet: Packet) -> socket.socket:
        """A socket whose owner is the packet's: what opens a file has its user and group in the file system's eyes."""
        _libc.setfsgid(packet.gid)
        _libc.setfsuid(packet.uid)
        try:
            with self.namespace:
                kind = socket.AF_INET6 if self.family is Family.IPV6 else socket.AF_INET
                made = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        finally:
            _libc.setfsuid(0)
            _libc.setfsgid(0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        if packet.mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", packet.mark))
        return made


def _settings() -> None:
    for name, value in _SETTINGS.items():
        for scope in ("all", "default") if "{}" in name else ("",):
            path = Path("/proc/sys/net", *name.format(scope).split("."))
            with contextlib.suppress(FileNotFoundError, PermissionError):  # older kernels, or not per namespace
                path.write_text(str(value))
