"""The few rtnetlink messages that turn a TAP into a way onto another interface, packed by hand: importing a netlink
library would cost more than all of them together.

Whatever is received on the TAP is redirected to the ingress of the target (linux/pkt_cls.h, tc_act/tc_mirred.h).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from nfkeep.conntrack._ffi import fail

_REQUEST_ACK, _CREATE_EXCL = 0x5, 0x600  # NLM_F_*
_RTM_SETLINK, _RTM_NEWQDISC, _RTM_NEWTFILTER = 19, 36, 44
_NLMSG_ERROR = 2
_TC_H_CLSACT, _TC_H_CLSACT_HANDLE, _TC_H_INGRESS_OF_CLSACT = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_TC_ACT_STOLEN, _TCA_INGRESS_REDIR = 4, 3
_TC_U32_TERMINAL = 1
_ETH_P_ALL = 0x0003
_IFF_UP = 1
_SIOCGIFHWADDR, _ARPHRD_NONE = 0x8927, 0xFFFE


def redirect_to(tap: int, target: int) -> None:
    """Bring the interface `tap` up and let all it receives be received on `target` (both ifindexes).

    Raises PermissionDeniedError; UnsupportedError naming what the kernel lacks: clsact, u32 or mirred.
    """
    info = 1 << 16 | socket.htons(_ETH_P_ALL)  # priority 1
    steps = (
        ("IPv6 addresses", _link(tap, 0, _nested(26, _nested(socket.AF_INET6, _attribute(8, b"\x01"))))),
        ("link up", _link(tap, _IFF_UP, b"")),
        ("clsact", _tc(_RTM_NEWQDISC, tap, _TC_H_CLSACT_HANDLE, _TC_H_CLSACT, 0, _attribute(1, b"clsact\0"))),
        (
            "u32 or mirred",
            _tc(_RTM_NEWTFILTER, tap, 0, _TC_H_INGRESS_OF_CLSACT, info, _attribute(1, b"u32\0") + _everything(target)),
        ),
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as link:
        link.bind((0, 0))
        link.send(b"".join(message for _, message in steps))
        for number, (name, _) in zip(_answers(link, len(steps)), steps, strict=True):
            if number and name != "IPv6 addresses":  # without IPv6 there is nothing to switch off
                missing = number in (errno.ENOENT, errno.EOPNOTSUPP)
                raise fail(number, f"setting up the injection device ({name})", name if missing else None)


def _everything(target: int) -> bytes:
    """The options of a u32 filter with one key that matches everything, whose action redirects to `target`."""
    selector = struct.pack("=BBBxHHhhIIIii", _TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    mirred = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_INGRESS_REDIR, target)
    action = _attribute(1, b"mirred\0") + _nested(2, _attribute(2, mirred))
    return _nested(2, _attribute(5, selector) + _nested(7, _nested(1, action)))


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | 0x8000, payload)  # NLA_F_NESTED


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, kind, 0) + body


def _link(ifindex: int, flags: int, attributes: bytes) -> bytes:
    header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, ifindex, flags, flags)  # struct ifinfomsg
    return _message(_RTM_SETLINK, 0, header + attributes)


def _tc(kind: int, ifindex: int, handle: int, parent: int, info: int, attributes: bytes) -> bytes:
    header = struct.pack("=BxxxiIII", socket.AF_UNSPEC, ifindex, handle, parent, info)  # struct tcmsg
    return _message(kind, _CREATE_EXCL, header + attributes)


def _answers(link: socket.socket, count: int) -> list[int]:
    """The errno (0: done) that each of `count` messages was answered with."""
    numbers: list[int] = []
    while len(numbers) < count:
        data, at = link.recv(1 << 16), 0
        while at + 20 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _NLMSG_ERROR:
                numbers.append(-struct.unpack_from("=i", data, at + 16)[0])
            at += (max(length, 16) + 3) & ~3
    return numbers


def _hardware_address(name: str) -> str:
    """As /sys prints it; the empty string for an interface that has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFHWADDR, struct.pack("40s", name.encode()))
    kind: int = struct.unpack_from("=H", answer, 16)[0]
    return "" if kind == _ARPHRD_NONE else answer[18:24].hex(":")


def interface_name(ifindex: int) -> str | None:
    """Its name in the calling thread's namespace, None if there is no such interface."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):
            raise fail(error.errno or 0, f"naming interface {ifindex}") from error
        return None


def has_packet_steering(ifindex: int, name: str, sysfs: int) -> bool | None:
    """Whether received packets of an interface are handed to other CPUs (RPS); None if `sysfs` does not show it.

    A sysfs belongs to the namespace it was mounted in: what has another index or hardware address there is not the
    interface that is meant.
    """

    def read(path: str) -> str:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=sysfs)
        try:
            return os.read(file, 4096).decode().strip()
        finally:
            os.close(file)

    device = f"class/net/{name}"
    try:
        if int(read(f"{device}/ifindex")) != ifindex or read(f"{device}/address") != _hardware_address(name):
            return None
        queues = os.open(f"{device}/queues", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=sysfs)
        try:
            names = [queue for queue in os.listdir(queues) if queue.startswith("rx-")]
        finally:
            os.close(queues)
        return any(read(f"{device}/queues/{queue}/rps_cpus").replace(",", "").strip("0") for queue in names)
    except OSError:
        return None
