"""How opening packets enter the stack: on the interface that the flow's sender is behind, or out of this host itself.

For each interface one TAP device: what is written to it is received there, within write(2), by a tc redirect. Unlike
an ifb the kernel removes it when the last process that holds it dies, by whatever signal.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import attrs

from nfkeep.conntrack import _ffi, _rtnetlink
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self


@attrs.frozen(slots=True)
class Tap:
    """One injection device: frames written to `fd` for `mac` are received on the interface `target`."""

    target: int
    fd: int
    name: str
    mac: bytes


class Injector:
    """Ways into the stack of the calling thread's network namespace; all are gone after `close()`.

    Use it from one thread that stays in that namespace. Raises UnsupportedError (no /dev/net/tun, no clsact, u32 or
    mirred in the kernel), PermissionDeniedError.
    """

    __slots__ = ("_raw", "_sysfs", "_taps")

    def __init__(self) -> None:
        self._taps: dict[int, Tap] = {}
        self._raw: dict[Family, socket.socket] = {}
        self._sysfs = -1

    def prepare(self, interfaces: Iterable[int]) -> None:
        """Make what is missing for these ifindexes, about 1 ms each: best before the critical moment.

        An interface that is gone by now is left out; its flows are then not primed.
        """
        for target in interfaces:
            if target not in self._taps and _rtnetlink.interface_name(target) is not None:
                self._taps[target] = _open_tap(target)
        if self._sysfs < 0:
            self._sysfs = _ffi.open_sysfs()

    def raw_socket(self, family: Family) -> int:
        """The descriptor of a raw socket that sends whole IP packets of one family from this host."""
        if family not in self._raw:
            kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
            try:
                self._raw[family] = socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)  # implies *_HDRINCL
            except OSError as error:
                raise _ffi.fail(error.errno or 0, "opening a raw socket") from error
        return self._raw[family].fileno()

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The devices that exist now."""
        return tuple(self._taps.values())

    def synchronous(self, ifindex: int) -> bool:
        """Whether a packet for this interface has passed the rules when sending it returns.

        False with receive packet steering, False where sysfs does not show the interface (so that nobody can tell), and
        False for the loopback (0), whose packets are received from a softirq.
        """
        name = _rtnetlink.interface_name(ifindex) if ifindex > 0 else None
        if name is None or name == "lo":
            return False
        if self._sysfs < 0:
            self._sysfs = _ffi.open_sysfs()
        return _rtnetlink.has_packet_steering(ifindex, name, self._sysfs) is False

    def close(self) -> None:
        """Remove the devices and close the sockets; calling it again does nothing."""
        while self._taps:
            os.close(self._taps.popitem()[1].fd)
        while self._raw:
            self._raw.popitem()[1].close()
        if self._sysfs >= 0:
            os.close(self._sysfs)
            self._sysfs = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_tap(target: int) -> Tap:
    fd, name, mac = _ffi.open_tap()
    try:
        _rtnetlink.redirect_to(socket.if_nametoindex(name), target)
    except BaseException:
        os.close(fd)
        raise
    return Tap(target, fd, name, mac)
