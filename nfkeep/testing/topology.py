"""Virtual cables between namespaces, and the one network most tests want: client — gateway — server.

Everything is set up by `ip -batch` inside the namespaces, so interface names and addresses may be the same everywhere.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, TypeAlias

import attrs

from nfkeep.model import Family
from nfkeep.namespaces import Namespace, sysctl
from nfkeep.testing.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Gateway", "IPAddress", "add_address", "add_route", "batch", "pair"]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def batch(namespace: Namespace, lines: Iterable[str]) -> None:
    """Run `ip` commands (given without `ip`) inside, all in one process; CommandFailedError at the first that fails."""
    namespace.run(["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines))


def pair(ns_a: Namespace, name_a: str, ns_b: Namespace, name_b: str) -> None:
    """Lay a cable: a veth pair, `name_a` in one namespace and `name_b` in the other, both up."""
    batch(
        ns_a,
        [f"link add name {name_a} type veth peer name {name_b} netns {ns_b.path}", f"link set {name_a} up"],
    )
    batch(ns_b, [f"link set {name_b} up"])


def add_address(namespace: Namespace, device: str, *addresses: str | IPAddress) -> None:
    """Give a device addresses, with or without a `/prefix`; they are usable when this returns."""
    batch(namespace, [f"address add {address} dev {device}{_flags(str(address))}" for address in addresses])


def add_route(namespace: Namespace, destination: str, via: str | IPAddress) -> None:
    """Route `destination` (a network, or `default` of the family that `via` has) through a neighbour."""
    batch(namespace, [f"route add {destination} via {via}"])


@attrs.frozen(slots=True, eq=False)
class Gateway:
    """A client and a server with a forwarding gateway between them, all with IPv4 and IPv6.

    ========== ======= =========================== =============================
    namespace  device  IPv4                        IPv6
    ========== ======= =========================== =============================
    client     eth0    10.9.0.2, 10.9.0.3, … /16   fd09::2, fd09::3, … /64
    gateway    cli0    10.9.0.1                    fd09::1
    gateway    srv0    10.8.0.1                    fd08::1
    server     eth0    10.8.0.2 /24                fd08::2 /64
    ========== ======= =========================== =============================

    The gateway routes all client addresses through the first, so any number of them costs one neighbour entry.
    Made by `build`; `close()` (or leaving the `with` block) takes all of it down.
    """

    client: Namespace
    gateway: Namespace
    server: Namespace
    client_count: int = 1

    client_device = "eth0"
    client_side_device = "cli0"
    server_side_device = "srv0"
    server_device = "eth0"

    @classmethod
    def build(cls, client_count: int = 1, *, rp_filter: int = 0) -> Self:
        """Build it, with `client_count` addresses per family on the client (up to 65,000).

        `rp_filter` is what net.ipv4.conf.*.rp_filter is on the gateway: 0 off, 1 strict, 2 loose.
        """
        if not 1 <= client_count <= 65_000:
            raise ValueError(f"client_count is {client_count}; it must be 1 to 65000")
        namespaces: list[Namespace] = []
        try:
            for _ in range(3):
                namespaces.append(Namespace())
            built = cls(namespaces[0], namespaces[1], namespaces[2], client_count)
            built._wire(rp_filter)
        except BaseException:
            for namespace in namespaces:
                namespace.close()
            raise
        return built

    def client_addresses(self, family: Family) -> tuple[IPAddress, ...]:
        """The client's addresses, the one it uses by itself first."""
        first = _FIRST_CLIENT[family]
        return tuple(first + offset for offset in range(self.client_count))

    def gateway_address(self, family: Family) -> IPAddress:
        """The gateway's address on the client's side."""
        return _FIRST_CLIENT[family] - 1

    def gateway_server_side_address(self, family: Family) -> IPAddress:
        """The gateway's address on the server's side: what the server sees of masqueraded connections."""
        return _SERVER[family] - 1

    def server_address(self, family: Family) -> IPAddress:
        """The server's address."""
        return _SERVER[family]

    def close(self) -> None:
        """Let go of the three namespaces; calling it again does nothing."""
        for namespace in (self.client, self.gateway, self.server):
            namespace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wire(self, rp_filter: int) -> None:
        for scope in ("all", "default"):
            sysctl(self.gateway, f"net.ipv4.conf.{scope}.rp_filter", rp_filter)
            sysctl(self.gateway, f"net.ipv6.conf.{scope}.forwarding", 1)
        sysctl(self.gateway, "net.ipv4.ip_forward", 1)
        pair(self.gateway, self.client_side_device, self.client, self.client_device)
        pair(self.gateway, self.server_side_device, self.server, self.server_device)
        at_client, at_gateway, at_server = [], [], []
        for family, client in _FIRST_CLIENT.items():
            link, lan = (16, 24) if family is Family.IPV4 else (64, 64)
            network = ipaddress.ip_network((client, link), strict=False)
            nodad = _flags(str(client))
            at_gateway += [
                f"address add {client - 1}/{link} dev {self.client_side_device} noprefixroute{nodad}",
                f"route add {client} dev {self.client_side_device}",
                f"route add {network} via {client}",
                f"address add {_SERVER[family] - 1}/{lan} dev {self.server_side_device}{nodad}",
            ]
            at_server += [
                f"address add {_SERVER[family]}/{lan} dev {self.server_device}{nodad}",
                f"route add default via {_SERVER[family] - 1}",
            ]
            # IPv4 prefers the address added first, IPv6 the one added last
            addresses = self.client_addresses(family)
            at_client += [
                f"address add {address}/{link} dev {self.client_device}{nodad}"
                for address in (addresses if family is Family.IPV4 else reversed(addresses))
            ]
            at_client += [f"route add default via {client - 1} dev {self.client_device} src {client}"]
        batch(self.client, at_client)
        batch(self.gateway, at_gateway)
        batch(self.server, at_server)
        self._await_neighbours()

    def _await_neighbours(self) -> None:
        """Until each end hears it when the other asks for its IPv6 address.

        The kernel joins the group of an address from a work queue, some time after the address is there (addrconf.c,
        addrconf_dad_begin()); a question that comes before is lost, and the next one is asked a second later.
        """
        client, server = _FIRST_CLIENT[Family.IPV6], _SERVER[Family.IPV6]
        ends = (
            (self.client, self.client_device, client),
            (self.gateway, self.client_side_device, client - 1),
            (self.gateway, self.server_side_device, server - 1),
            (self.server, self.server_device, server),
        )
        for namespace, device, address in ends:
            if not wait_until(functools.partial(_hears, namespace, device, address), interval=0.001):
                raise TimeoutError(f"{device} does not answer for {address}")


_FIRST_CLIENT: dict[Family, IPAddress] = {
    Family.IPV4: ipaddress.IPv4Address("10.9.0.2"),
    Family.IPV6: ipaddress.IPv6Address("fd09::2"),
}
_SERVER: dict[Family, IPAddress] = {
    Family.IPV4: ipaddress.IPv4Address("10.8.0.2"),
    Family.IPV6: ipaddress.IPv6Address("fd08::2"),
}


def _hears(namespace: Namespace, device: str, address: IPAddress) -> bool:
    """Whether a device is in the solicited-node group of an IPv6 address (RFC 4291)."""
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:]
    with namespace, open("/proc/thread-self/net/igmp6", encoding="ascii") as groups:
        return any(line.split()[1:3] == [device, group.hex()] for line in groups)


def _flags(address: str) -> str:
    return " nodad" if ":" in address else ""
