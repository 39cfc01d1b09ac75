"""The incident that nfkeep is about, replayed on real connections: an unrelated rule resets a connection limit.

Everything happens in network namespaces that vanish with this process, however it ends; the host is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs

import nfkeep
from nfkeep.errors import UnsupportedError
from nfkeep.keep.command import find_binary
from nfkeep.model import Family
from nfkeep.testing import Connection, EchoServer, Gateway, Kind, Namespace, close_all, dial, living, sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLOSED", "LIMIT", "SHAPES", "TRIED", "Change", "Replay", "Shape", "by_iptables", "by_nfkeep", "replay"]

LIMIT = 10
"""How many connections the rule lets a client have."""
TRIED = 14
"""How many the client tries to open, each time."""
CLOSED = 3
"""How many of the old ones it closes in the end."""


@attrs.frozen(slots=True)
class Shape:
    """One kind of connection and the chain that limits it; `forwarded`: by DNAT and MASQUERADE to another host."""

    name: str
    family: Family
    kind: Kind
    forwarded: bool = False

    @property
    def chain(self) -> str:
        """The chain that the limit is in."""
        return "FORWARD" if self.forwarded else "INPUT"

    @property
    def unrelated_rule(self) -> str:
        """The rule that is added: a ban of somebody who is not there."""
        return f"-s {'2001:db8::1' if self.family is Family.IPV6 else '192.0.2.1'} -j DROP"


SHAPES = (
    Shape("IPv4 TCP, INPUT", Family.IPV4, "tcp"),
    Shape("IPv4 TCP, FORWARD with DNAT and MASQUERADE", Family.IPV4, "tcp", forwarded=True),
    Shape("IPv4 UDP, INPUT", Family.IPV4, "udp"),
    Shape("IPv6 TCP, INPUT", Family.IPV6, "tcp"),
)


@attrs.frozen(slots=True)
class Replay:
    """What was seen, in connections.

    `let_in`: of those tried first. `more`: let in after the change, where none should be. `alive`: of the first ones,
    those that carry data both ways after it. `after_closing`: let in once `CLOSED` of the first ones have closed.
    `gate_seconds`: how long new connections were held off, None if nothing did that.
    """

    let_in: int
    more: int
    alive: int
    after_closing: int
    gate_seconds: float | None

    @property
    def kept(self) -> bool:
        """Whether the limit held and nobody was hurt."""
        return (self.let_in, self.more, self.alive, self.after_closing) == (LIMIT, 0, LIMIT, CLOSED)

    @property
    def lost(self) -> bool:
        """Whether the limit let more in than it allows, because of the change."""
        return self.let_in == LIMIT and self.more > 0


Change: TypeAlias = Callable[[Shape, Namespace], "float | None"]
"""Adds the unrelated rule of a shape in a namespace, and gives the seconds for which a gate was shut."""


def by_iptables(shape: Shape, namespace: Namespace) -> float | None:
    """Add the rule with the legacy iptables."""
    namespace.run(f"{_legacy(shape.family)} -A {shape.chain} {shape.unrelated_rule}")
    return None


def by_nfkeep(shape: Shape, namespace: Namespace) -> float | None:
    """Add the rule in a transaction."""
    with namespace, nfkeep.transaction("filter", shape.family) as tx:
        tx.append(shape.chain, shape.unrelated_rule)
    return tx.report.gate_seconds


def replay(shape: Shape, change: Change) -> Replay:
    """Open connections under a limit, change an unrelated rule, and see who gets in."""
    with _own_lock(), Gateway.build() as net:
        address = net.gateway_address(shape.family)
        server = net.server if shape.forwarded else net.gateway
        inside = net.server_address(shape.family) if shape.forwarded else address
        _limit(shape, net)
        with EchoServer(server, shape.family, shape.kind, inside, _INSIDE if shape.forwarded else _PORT):

            def knock() -> list[Connection]:
                return dial(net.client, shape.family, shape.kind, address, _PORT, TRIED, timeout=1.0)

            old = knock()
            gate_seconds = change(shape, net.gateway)
            more = knock()
            alive = living(old)
            _end(shape, net, old)
            again = knock()
            return Replay(len(old), len(more), len(alive), len(again), gate_seconds)


_PORT, _INSIDE = 873, 8730


def _limit(shape: Shape, net: Gateway) -> None:
    """Put up the limit, and the NAT of what is forwarded. Refusals are spoken, so that nobody has to wait for one."""
    iptables = _legacy(shape.family)
    port = _PORT
    if shape.forwarded:
        port = _INSIDE
        to = f"{net.server_address(shape.family)}:{port}"
        net.gateway.run(f"{iptables} -t nat -A PREROUTING -p tcp --dport {_PORT} -j DNAT --to-destination {to}")
        net.gateway.run(f"{iptables} -t nat -A POSTROUTING -o {net.server_side_device} -j MASQUERADE")
    if shape.kind == "tcp":
        which, refusal = "--syn", "--reject-with tcp-reset"
    else:
        which, refusal = "-m conntrack --ctstate NEW", "--reject-with icmp-port-unreachable"
        sysctl(net.gateway, "net.ipv4.icmp_ratelimit", 0)
    net.gateway.run(
        f"{iptables} -A {shape.chain} -p {shape.kind} --dport {port} {which}"
        f" -m connlimit --connlimit-above {LIMIT} -j REJECT {refusal}"
    )


def _end(shape: Shape, net: Gateway, old: list[Connection]) -> None:
    """Close some of the first connections, and wait until conntrack and connlimit have noticed."""
    leaving, staying = old[:CLOSED], old[CLOSED:]
    if shape.kind == "tcp":
        close_all(leaving)
        time.sleep(_SEVERAL_TICKS_SECONDS)
        return
    # UDP knows no end: the kernel forgets a flow that is silent for some time. Make that a second, for these alone.
    kept = {name: sysctl(net.gateway, name) for name in _UDP_TIMEOUTS}
    for name in _UDP_TIMEOUTS:
        sysctl(net.gateway, name, 1)
    living(leaving)
    for name, value in kept.items():
        sysctl(net.gateway, name, value)
    living(staying)
    close_all(leaving)
    time.sleep(1.0 + _SEVERAL_TICKS_SECONDS)


_UDP_TIMEOUTS = ("net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream")
_SEVERAL_TICKS_SECONDS = 0.05  # connlimit looks for closed connections once per tick of the kernel, at most


def _legacy(family: Family) -> str:
    name = "ip6tables" if family is Family.IPV6 else "iptables"
    if (found := shutil.which(f"{name}-legacy")) is not None:
        return found
    binary, legacy = find_binary(family)
    if not legacy:
        raise UnsupportedError(f"the demo needs the legacy iptables, and {binary} is the nft one", f"{name}-legacy")
    return binary


@contextlib.contextmanager
def _own_lock() -> Iterator[None]:
    """The xtables lock is one for all namespaces: take one of our own, which has no name and vanishes with us."""
    before = os.environ.get(_LOCK)
    fd = os.memfd_create("xtables.lock")
    os.environ[_LOCK] = f"/proc/{os.getpid()}/fd/{fd}"
    try:
        yield
    finally:
        os.close(fd)
        if before is None:
            del os.environ[_LOCK]
        else:
            os.environ[_LOCK] = before


_LOCK = "XTABLES_LOCKFILE"
