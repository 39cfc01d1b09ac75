"""A service under a connection limit, on a real gateway: what most tests of keeping counts work with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs

import nfkeep
from nfkeep import Family
from nfkeep.testing import close_all, living, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.namespaces import Namespace
    from nfkeep.testing import Connection, EchoServer, Gateway
    from nfkeep.testing.fixtures import Dialer
    from nfkeep.testing.topology import IPAddress

LIMIT = 10
DIALS = 14


@attrs.frozen
class Shape:
    """One way to limit a service to ten connections per client."""

    name: str
    family: Family = Family.IPV4
    kind: str = "tcp"
    chain: str = "INPUT"
    nat: bool = False
    condition: str = ""
    variant: str = "legacy"

    def __str__(self) -> str:
        return self.name

    @property
    def iptables(self) -> str:
        return f"{'iptables' if self.family is Family.IPV4 else 'ip6tables'}-{self.variant}"

    @property
    def unrelated(self) -> str:
        """A rule that has nothing to do with the service."""
        return f"-s {'192.0.2.1' if self.family is Family.IPV4 else 'fd99::1'} -j DROP"

    def rule(self, port: int) -> str:
        opening = "--syn" if self.kind == "tcp" else ""
        verdict = "-j REJECT --reject-with tcp-reset" if self.kind == "tcp" else "-j DROP"
        limit = f"-m connlimit --connlimit-above {LIMIT}"
        return f"-p {self.kind} {opening} --dport {port} {self.condition} {limit} {verdict}"


@attrs.frozen
class Service:
    """A running one: dial it, change the gateway's rules, dial again."""

    shape: Shape
    network: Gateway
    server: EchoServer
    dialer: Dialer

    @property
    def gateway(self) -> Namespace:
        return self.network.gateway

    @property
    def address(self) -> IPAddress:
        return self.network.gateway_address(self.shape.family)

    def dial(self, count: int = DIALS) -> list[Connection]:
        """Those of `count` attempts that get in.

        UDP one after the other: its rule drops every packet of the client while the count is over the limit.
        """
        client, family, kind = self.network.client, self.shape.family, self.shape.kind
        if kind == "tcp":
            return self.dialer(client, family, kind, self.address, 873, count, timeout=1.0)
        tries = (self.dialer(client, family, kind, self.address, 873, 1, timeout=0.2) for _ in range(count))
        return [connection for admitted in tries for connection in admitted]

    def dial_again(self, room: int) -> list[Connection]:
        """Those that get in where there is `room`, which the kernel may take two ticks to see.

        Attempts that were refused stay in connlimit's list until then (nf_conncount.c, find_or_evict()).
        """
        admitted: list[Connection] = []

        def enough() -> bool:
            admitted.extend(self.dial())
            return len(admitted) >= room

        wait_until(enough, timeout=5.0, interval=0.02)
        return [*admitted, *self.dial()]

    def quiet(self) -> None:
        """Wait until no packet of the connections is still to come: late acknowledgements have arrived."""

        def acknowledged() -> bool:
            places = (self.network.client, self.gateway, self.network.server)
            sockets = [line.split() for each in places for line in each.run("ss -tnH").stdout.splitlines()]
            return all(unsent == "0" for _, _, unsent, *_ in sockets)

        assert wait_until(acknowledged)

    def plain(self, arguments: str) -> None:
        """Change the gateway's rules with plain iptables."""
        self.gateway.run(f"{self.shape.iptables} {arguments}")

    def keep(self, change: Callable[[nfkeep.Transaction], None], table: str = "filter") -> nfkeep.Report:
        """Change them in a transaction."""
        with self.gateway, nfkeep.transaction(table, self.shape.family) as tx:
            change(tx)
        return tx.report

    def append_unrelated(self) -> nfkeep.Report:
        return self.keep(lambda tx: tx.append(self.shape.chain, self.shape.unrelated))

    def command(self, arguments: str) -> None:
        """Change them with the command `nfkeep iptables`."""
        name = "iptables" if self.shape.family is Family.IPV4 else "ip6tables"
        self.gateway.run([*NFKEEP, name, *arguments.split()])


NFKEEP = (sys.executable, "-c", "from nfkeep.cli import main; main()")


def assert_count_kept(service: Service, change: Callable[[], object]) -> None:
    """Ten of fourteen get in before; after the change none, all ten live on, and three that close make room for 3."""
    old = service.dial()
    assert len(old) == LIMIT
    change()
    assert len(service.dial()) == 0
    assert len(living(old)) == LIMIT
    if service.shape.kind == "tcp":
        close_all(old[:3])
        assert len(service.dial_again(3)) == 3
        assert len(living(old[3:])) == LIMIT - 3
