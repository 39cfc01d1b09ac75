"""What speaks against a ban: the allow list, the host's own addresses and gateways, the SSH peer, and good sense.

The allow list is in the kernel and wins there over every ban, whoever makes it; here it makes an error of the attempt.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from nfkeep.bans.host import Host, IPAddress, ssh_peers
from nfkeep.bans.values import Address, Kind, address_of
from nfkeep.errors import AllowedAddressError, InvalidAddressError, NfkeepError
from nfkeep.nft.addresses import COVERS_GUARD, IN_GUARD, REASONS, Guards

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_EVERYTHING = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]

NO_GUARDS = Guards([])
"""Nothing speaks against any address; of use where bans are looked up or lifted."""


class Guarded:
    """The guards of one list, as they are now: `all` of them, and `forced`, those that even `force` leaves.

    The host is the network namespace that was current when this was made.
    """

    def __init__(self) -> None:
        self._host = Host()
        self._gateways: set[IPAddress] = set()
        self._peers = ssh_peers()
        self._reasons: list[tuple[Address, str, bool]] = []
        self.all = self.forced = NO_GUARDS

    def refresh(self, allowed: Iterable[tuple[Kind, bytes]]) -> None:
        """Take the allow list as it is told, and the addresses that the host has now."""
        reasons: list[tuple[Address, str, bool]] = []
        reasons += [(each, "is an address of this host", False) for each in self._host.own_addresses()]
        reasons += [(each, "is a gateway of this host", False) for each in self._gateways]
        reasons += [(address_of(*entry), "is in the allow list", False) for entry in allowed]
        known = {str(each) for each, _, _ in reasons}
        reasons += [
            (each, "is at the other end of this SSH session; only force bans it", True)
            for each in self._peers
            if str(each) not in known
        ]
        reasons += [(each, "is everybody; only force bans that", True) for each in _EVERYTHING]
        self._reasons = reasons
        self.all = Guards([_guard(each, covered) for each, _, covered in reasons])
        self.forced = Guards([_guard(each, covered) for each, _, covered in reasons if not covered])

    def gateways(self) -> list[tuple[Kind, bytes]]:
        """The gateways that there are now, as keys."""
        self._gateways = self._host.gateways()
        return [(Kind.HOST6 if each.version == 6 else Kind.HOST4, each.packed) for each in self._gateways]

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._host.close()

    def why(self, network: IPNetwork) -> str | None:
        """What speaks against a network, in words."""
        for guard, words, covered in self._reasons:
            other = _network(guard)
            if covered and _within(other, network):
                return f"it {words}" if other == network else f"{guard} {words}"
            if not covered and _within(network, other):
                return f"it {words}" if other == network else f"it {words}: {guard}"
        return None


def refusal(given: object, reason: int, guarded: Guarded | None) -> NfkeepError:
    """The error for an address that was refused with this reason of nfkeep.nft.addresses."""
    if guarded is None or reason not in (IN_GUARD, COVERS_GUARD):
        return InvalidAddressError(given, REASONS[reason])
    network = _network(_unmapped(ipaddress.ip_network(str(given))))
    return AllowedAddressError(given, guarded.why(network) or "it is in the allow list")


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and (int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen))
        == (int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen))
    )


def _unmapped(network: IPNetwork) -> IPNetwork:
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _guard(address: Address, covered: bool) -> tuple[int, int, bytes, bool]:
    network = _network(address)
    return int(network.version == 6), network.prefixlen, network.network_address.packed, covered


def _network(address: Address) -> IPNetwork:
    return ipaddress.ip_network(address)
