"""pytest fixtures for rule changes under real traffic: `pytest_plugins = ["nfkeep.testing.fixtures"]` in a conftest.py.

They need root; each test gets namespaces of its own, and whatever it opened is gone when it ends, passed or failed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import pytest

from nfkeep.namespaces import Namespace
from nfkeep.testing.connections import Connection, abort_all, dial
from nfkeep.testing.server import EchoServer
from nfkeep.testing.topology import Gateway
from nfkeep.testing.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nfkeep.model import Family
    from nfkeep.testing.sockets import Kind
    from nfkeep.testing.topology import IPAddress

__all__ = [
    "Dialer",
    "EchoServerFactory",
    "GatewayFactory",
    "TransferFactory",
    "dialer",
    "echo_server",
    "gateway",
    "gateway_factory",
    "namespace",
    "namespace_factory",
    "transfer",
]


class GatewayFactory(Protocol):
    """Called as `Gateway.build`."""

    def __call__(self, client_count: int = 1, *, rp_filter: int = 0) -> Gateway:
        """A new gateway topology, taken down after the test."""


class EchoServerFactory(Protocol):
    """Called as `EchoServer`."""

    def __call__(
        self, namespace: Namespace, family: Family, kind: Kind, address: str | IPAddress, port: int = 0
    ) -> EchoServer:
        """A running server, stopped after the test."""


class Dialer(Protocol):
    """Called as `dial`."""

    def __call__(
        self,
        namespace: Namespace,
        family: Family,
        kind: Kind,
        address: str | IPAddress,
        port: int,
        count: int = 1,
        *,
        source: str | IPAddress | Iterable[str | IPAddress] | None = None,
        timeout: float = 2.0,
    ) -> list[Connection]:
        """The admitted connections, aborted after the test if it has not closed them."""


class TransferFactory(Protocol):
    """Called as `Transfer`."""

    def __call__(self, connection: Connection, *, chunk_bytes: int = 4096, pause_seconds: float = 0.01) -> Transfer:
        """A running transfer, stopped after the test."""


@pytest.fixture
def namespace_factory() -> Iterator[Callable[[], Namespace]]:
    """Make as many namespaces as a test needs: `namespace_factory()`."""
    with contextlib.ExitStack() as stack:

        def make() -> Namespace:
            made = Namespace()
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def namespace(namespace_factory: Callable[[], Namespace]) -> Namespace:
    """One namespace, with only `lo` in it."""
    return namespace_factory()


@pytest.fixture
def gateway_factory() -> Iterator[GatewayFactory]:
    """Build client — gateway — server networks: `gateway_factory(client_count=200, rp_filter=1)`."""
    with contextlib.ExitStack() as stack:

        def make(client_count: int = 1, *, rp_filter: int = 0) -> Gateway:
            return stack.enter_context(Gateway.build(client_count, rp_filter=rp_filter))

        yield make


@pytest.fixture
def gateway(gateway_factory: GatewayFactory) -> Gateway:
    """A client — gateway — server network with one client address and rp_filter off."""
    return gateway_factory()


@pytest.fixture
def echo_server() -> Iterator[EchoServerFactory]:
    """Start echo servers: `echo_server(ns, Family.IPV4, "tcp", "127.0.0.1", 873)`."""
    with contextlib.ExitStack() as stack:

        def make(
            namespace: Namespace, family: Family, kind: Kind, address: str | IPAddress, port: int = 0
        ) -> EchoServer:
            return stack.enter_context(EchoServer(namespace, family, kind, address, port))

        yield make


@pytest.fixture
def dialer() -> Iterator[Dialer]:
    """Dial as `nfkeep.testing.dial` does, without having to close anything."""
    opened: list[Connection] = []

    def call(
        namespace: Namespace,
        family: Family,
        kind: Kind,
        address: str | IPAddress,
        port: int,
        count: int = 1,
        *,
        source: str | IPAddress | Iterable[str | IPAddress] | None = None,
        timeout: float = 2.0,
    ) -> list[Connection]:
        admitted = dial(namespace, family, kind, address, port, count, source=source, timeout=timeout)
        opened.extend(admitted)
        return admitted

    yield call
    abort_all(opened)


@pytest.fixture
def transfer(dialer: Dialer) -> Iterator[TransferFactory]:
    """Start transfers: `transfer(connection)`. They stop before the connections of `dialer` are aborted."""
    running: list[Transfer] = []

    def make(connection: Connection, *, chunk_bytes: int = 4096, pause_seconds: float = 0.01) -> Transfer:
        running.append(Transfer(connection, chunk_bytes=chunk_bytes, pause_seconds=pause_seconds))
        return running[-1]

    yield make
    for one in running:
        one.stop(timeout=0.1)
