"""Opening packets for tests of the walker: as it is told of them (struct nfk_probe), and as bytes to be sent."""

from __future__ import annotations

import struct
import warnings
from ipaddress import ip_address
from typing import Any

import attrs

from nfkeep.model import Family, Hook

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own deprecations
    import scapy.all as scapy

TCP, UDP = 6, 17
ESTABLISHED, RELATED, NEW = 1 << 1, 1 << 2, 1 << 3  # XT_CONNTRACK_STATE_BIT
SYN, ACK = 0x02, 0x10
SRC_NAT, DST_NAT = 1 << 4, 1 << 5  # IPS_*
ALL_STATUS = 0xFFFFFFFF
NO_PACKET = 255

_PROBE = struct.Struct("=14B5H3I16s16s16s16s16s16s")


@attrs.frozen
class Probe:
    """struct nfk_probe, of csrc/probe.h; the addresses after NAT are the same unless given."""

    family: Family
    protocol: int
    sunk_at: Hook | int
    source: str
    destination: str
    source_port: int = 20000
    destination_port: int = 873
    nat_source: str | None = None
    nat_destination: str | None = None
    nat_source_port: int | None = None
    nat_destination_port: int | None = None
    from_here: bool = False
    is_reply: bool = False
    states: int = NEW
    ttl: int = 64
    tos: int = 0
    tcp_flags: int = SYN
    types: tuple[int, int, int, int] = (0, 0, 0, 0)
    ct_mark: int = 0
    status: int = 0
    status_known: int = ALL_STATUS
    in_name: str = ""
    out_name: str = ""

    @property
    def after(self) -> tuple[str, str]:
        """Source and destination after NAT."""
        return self.nat_source or self.source, self.nat_destination or self.destination

    @property
    def length(self) -> int:
        """From the IP header on."""
        return (20 if self.family is Family.IPV4 else 40) + (20 if self.protocol == TCP else 16)

    def pack(self) -> bytes:
        """The struct."""
        ports = (
            self.source_port, self.destination_port,
            self.nat_source_port or self.source_port, self.nat_destination_port or self.destination_port,
        )  # fmt: skip
        return _PROBE.pack(
            self.family.value, self.protocol, self.from_here, self.sunk_at, self.is_reply, self.states, self.ttl,
            self.tos, self.tcp_flags if self.protocol == TCP else 0, *self.types, 0, self.length, *ports, self.ct_mark,
            self.status, self.status_known,
            *(ip_address(each).packed for each in (self.source, self.destination, *self.after)),
            self.in_name.encode(), self.out_name.encode(),
        )  # fmt: skip

    def packet(self) -> bytes:
        """From the IP header on."""
        ends: dict[str, Any] = {"src": self.source, "dst": self.destination}
        if self.family is Family.IPV4:
            head = scapy.IP(**ends, ttl=self.ttl, tos=self.tos, flags="DF")
        else:
            head = scapy.IPv6(**ends, hlim=self.ttl, tc=self.tos)
        ports = {"sport": self.source_port, "dport": self.destination_port}
        if self.protocol == TCP:
            return bytes(head / scapy.TCP(**ports, flags=self.tcp_flags, window=64240, seq=1, ack=2))
        return bytes(head / scapy.UDP(**ports) / b"8 octets")
