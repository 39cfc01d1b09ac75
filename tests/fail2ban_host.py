"""A host with fail2ban, clients that it bans, and servers that they may or may not reach: what the tests of it share.

Jails `one` and so on look after TCP and UDP port 873, or another; their lists are `f2b-one` and so on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
from fail2ban_server import Fail2ban, Probe

import nfkeep
from nfkeep import Family
from nfkeep.testing import EchoServer, Gateway, dial, wait_until

if TYPE_CHECKING:
    from nfkeep.testing import IPAddress
    from nfkeep.testing.fixtures import GatewayFactory

PORT, OTHER_PORT = 873, 8022
KINDS: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
CLIENTS = 8


@attrs.frozen
class Host:
    """A host with fail2ban whose jails `one` and so on look after the echo server at UDP and TCP port 873."""

    net: Gateway
    fail2ban: Fail2ban
    backend: str = "nft"

    def client(self, number: int, family: Family = Family.IPV4) -> IPAddress:
        """One of the addresses of its clients, from 1; number 0 is a gateway of the host, which is never banned."""
        return self.net.client_addresses(family)[number]

    def is_served(self, source: IPAddress, port: int = PORT) -> bool:
        """Whether a client gets an answer over TCP."""
        family = Family.IPV6 if source.version == 6 else Family.IPV4
        server = self.net.gateway_address(family)
        found = dial(self.net.client, family, "tcp", server, port, source=source, timeout=0.3)
        for connection in found:
            connection.abort()
        return bool(found)

    def bans(self, jail: str = "one") -> dict[str, float]:
        """What is in the list of a jail: addresses, and the seconds that are left."""
        with self.net.gateway:
            bans = nfkeep.BanList(f"f2b-{jail}", self.backend)
            if not bans.exists():
                return {}
            with bans:
                return {str(ban.address): math.inf if ban.expires is None else ban.expires for ban in bans}

    def expect(self, *addresses: object, jail: str = "one", timeout: float = 60.0) -> None:
        """Wait until exactly these are in the list."""
        wanted = {str(address) for address in addresses}
        assert wait_until(lambda: set(self.bans(jail)) == wanted, timeout), (self.bans(jail), self.fail2ban.said())

    def ends(self, address: object, jail: str = "one") -> float:
        """When the kernel ends a ban, by the clock; 0 if there is none."""
        left = self.bans(jail).get(str(address))
        return 0.0 if left is None else time.time() + left

    def probe(self, *sources: IPAddress) -> Probe:
        """Ask over UDP, again and again, from IPv4 addresses."""
        return Probe(self.net.client, sources, self.net.gateway_address(Family.IPV4), PORT)

    def knock(self, *addresses: object, jail: str = "one") -> None:
        """Have hosts misbehave, and wait until exactly they are banned."""
        self.fail2ban.knock(*addresses, jail=jail)
        self.expect(*addresses, jail=jail)


@contextlib.contextmanager
def a_host(build: GatewayFactory, root: Path) -> Iterator[Host]:
    """A host with servers on ports 873 and 8022, and a fail2ban below `root` that is not running."""
    net = build(CLIENTS)
    with contextlib.ExitStack() as stack:
        for port in (PORT, OTHER_PORT):
            for family in Family:
                for kind in KINDS:
                    stack.enter_context(EchoServer(net.gateway, family, kind, net.gateway_address(family), port))
        yield Host(net, Fail2ban(net.gateway, root))
