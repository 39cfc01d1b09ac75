"""A flood of numbered packets from one host, and which of them arrived: to see a ban from the outside."""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from nfkeep import Family
    from nfkeep.namespaces import Namespace
    from nfkeep.testing import IPAddress

_NUMBER = struct.Struct("!Q")


class Flood:
    """UDP packets from `source` to `port` of `address`, as fast as they go, while the `with` block lasts.

    `bound`: the namespace, address and port that they arrive at, where NAT makes that another one.
    """

    def __init__(
        self,
        family: Family,
        sender: tuple[Namespace, IPAddress],
        address: IPAddress,
        port: int,
        bound: tuple[Namespace, IPAddress, int],
    ) -> None:
        namespace, source = sender
        with bound[0]:
            self._receiver = socket.socket(family.value, socket.SOCK_DGRAM)
            self._receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE: nothing may be lost here
            self._receiver.bind((str(bound[1]), bound[2]))
            self._receiver.settimeout(0.2)
        with namespace:
            self._sender = socket.socket(family.value, socket.SOCK_DGRAM)
            self._sender.bind((str(source), 0))
            self._sender.connect((str(address), port))
        self.begun = 0  # packets that are sent, or about to be
        self.arrived: set[int] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def later_ones(self, begun: int) -> set[int]:
        """Those that arrived although they were sent after `begun` had been read; call it when the flood is over.

        The one after `begun` may have been on its way then.
        """
        return {number for number in self.arrived if number > begun + 1}

    def wait_for_more(self, count: int) -> None:
        """Until `count` more have been sent."""
        until = self.begun + count
        wait_until(lambda: self.begun >= until, timeout=20)

    def wait_for_arrivals(self) -> None:
        """Until some that were sent from now on have arrived."""
        begun = self.begun
        wait_until(lambda: bool(self.later_ones(begun)), timeout=20)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()

    def _send(self) -> None:
        while not self._over.is_set():
            self.begun += 1
            try:
                self._sender.send(_NUMBER.pack(self.begun))
            except OSError:  # a reject, told by ICMP
                continue

    def _receive(self) -> None:
        while True:
            try:
                self.arrived.add(_NUMBER.unpack(self._receiver.recv(64))[0])
            except TimeoutError:
                if self._over.is_set():
                    return
