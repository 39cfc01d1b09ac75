"""Finds out, in a network namespace of its own, how this kernel can be made to count a live flow again.

A probe and not a version check: distributions carry the 2026 nf_conncount changes (skip flows that are ASSURED) in
kernels of many numbers.
"""

from __future__ import annotations

import enum
import functools
import socket
import threading
from collections.abc import Callable

from nfkeep.conntrack import Conntrack, Injector, prime
from nfkeep.conntrack.select import Condition, Selector
from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.model import Family, Hook
from nfkeep.namespaces import Namespace
from nfkeep.xtables.tables import TableHandle
from nfkeep.xtables.text import parse

_LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


class Counting(enum.Enum):
    """What makes connlimit count a live flow again."""

    PRIME = "prime"
    """Its opening packet, sent once more."""
    RECREATE = "recreate and prime"
    """The same, after its conntrack entry was made anew without ASSURED."""
    NEITHER = "nothing"
    """Neither of these: counts cannot be kept on this kernel."""


@functools.cache
def probe_counting(family: Family) -> Counting:
    """What this kernel needs; asked once per process, as the answer belongs to the kernel.

    Proves it: two live TCP connections, a connlimit rule made after them, and whether that rule then counts both.
    Where no namespace can be made (in most containers) it is the thorough way, which works on all kernels known.
    """
    found: list[Counting | BaseException] = []

    def body() -> None:
        try:
            found.append(_probe(family))
        except BaseException as error:
            found.append(error)

    # A thread of its own: whatever goes wrong, the caller's thread stays in its namespace.
    thread = threading.Thread(target=body, name="nfkeep-selftest")
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _probe(family: Family) -> Counting:
    try:
        namespace = Namespace()
    except (PermissionDeniedError, OSError):
        return Counting.RECREATE
    try:
        with namespace, socket.create_server((_LOOPBACK[family], 0), family=family.value) as server:
            port = server.getsockname()[1]
            # Before any connection: a rule that looks at conntrack is what turns tracking on in a namespace.
            with _rule(family, f"-p tcp --dport {port} -m conntrack --ctstate NEW"):
                pairs = [_connect(server) for _ in range(2)]
            try:
                return next((way for way in (Counting.PRIME, Counting.RECREATE) if _counts(family, port, way)), _NONE)
            finally:
                for one, other in pairs:
                    one.close()
                    other.close()
    finally:
        namespace.close()


_NONE = Counting.NEITHER


def _connect(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(server.getsockname()[:2])
    served, _ = server.accept()
    # Data both ways and acknowledged: only then is the entry sure to be ASSURED.
    client.sendall(b"x")
    served.recv(1)
    served.sendall(b"x")
    client.recv(1)
    return client, served


def _counts(family: Family, port: int, way: Counting) -> bool:
    selector = Selector(Hook.OUTPUT, (Condition(protocol=6, destination_ports=((port, port),)),), True, False)
    text = f"-p tcp --dport {port} --syn -m connlimit --connlimit-above 1 --connlimit-mask 0 -j DROP"
    try:
        with _rule(family, text) as met, Conntrack() as conntrack, Injector() as injector:
            with conntrack.select(family, (selector,)) as flows:
                prime(conntrack, flows, injector, recreate=way is Counting.RECREATE, nonces={Hook.OUTPUT: 1})
            return met() == 1
    except NfkeepError:
        return False


class _rule:
    """One rule in OUTPUT of the namespace's filter table; gives a function that says how many packets it met."""

    def __init__(self, family: Family, text: str) -> None:
        self.family = family
        self.rule = parse(text, family)

    def __enter__(self) -> Callable[[], int]:
        self._edit(lambda handle: handle.append("OUTPUT", self.rule))
        return self._packets

    def __exit__(self, *_: object) -> None:
        self._edit(lambda handle: handle.flush("OUTPUT"))

    def _edit(self, change: Callable[[TableHandle], None]) -> None:
        with TableHandle("filter", self.family) as handle:
            change(handle)
            handle.commit()

    def _packets(self) -> int:
        with TableHandle("filter", self.family) as handle:
            return sum(rule.counters.packets for rule in handle.rules("OUTPUT"))
