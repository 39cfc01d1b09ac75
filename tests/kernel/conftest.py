"""Starts the services that the tests of this folder work with, and gives them directories of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limited import Service, Shape

from nfkeep import Family

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nfkeep.testing.fixtures import Dialer, EchoServerFactory, GatewayFactory


@pytest.fixture
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and records of this test alone."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("NFKEEP_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("NFKEEP_STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def start_service(
    gateway_factory: GatewayFactory, echo_server: EchoServerFactory, dialer: Dialer
) -> Callable[..., Service]:
    """Start a service on port 873 of the gateway (or, with NAT, behind it) under the shape's rule, or other `rules`."""

    def start(shape: Shape, *, rules: list[str] | None = None, clients: int = 1) -> Service:
        network = gateway_factory(clients)
        # However slow the machine is, no flow runs out in a test: it would count no more.
        network.gateway.run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3600")
        network.gateway.run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=3600")
        where = network.server if shape.nat else network.gateway
        address = network.server_address(shape.family) if shape.nat else network.gateway_address(shape.family)
        port = 8730 if shape.nat else 873
        service = Service(shape, network, echo_server(where, shape.family, shape.kind, address, port), dialer)
        if shape.nat:
            to = f"[{address}]:{port}" if shape.family is Family.IPV6 else f"{address}:{port}"
            service.plain(f"-t nat -A PREROUTING -p {shape.kind} --dport 873 -j DNAT --to-destination {to}")
            service.plain("-t nat -A POSTROUTING -o srv0 -j MASQUERADE")
        for rule in rules if rules is not None else [f"-A {shape.chain} {shape.rule(port)}"]:
            service.plain(rule)
        return service

    return start
