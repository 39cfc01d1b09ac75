"""Elements of a set of ipset as the keys that the kernel's nf_tables has in the set that stands for it, and back.

A key's fields are one after the other, each filled up to 32-bit words if there are several (nft's concatenations).
Addresses, ports and hardware addresses are in network order; a mark is in the host's.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

from nfkeep.migrate.ipset_fields import ICMP, WITH_PORTS
from nfkeep.migrate.ipset_nft import entries
from nfkeep.migrate.ipsets import Element

if TYPE_CHECKING:
    from nfkeep.migrate.ipsets import IpSet

FIELDS = frozenset({"ip", "port", "mac", "mark"})
"""What can be in an element here; not networks and interfaces, which are intervals and prefixes in nft."""


def keyed(ipset: IpSet) -> dict[bytes, Element]:
    """Its elements by key. One that stands for several, as a range does, is there several times. Raises Lost."""
    if ipset.plain is not None:
        return {key: Element((), {"timeout": f"{left}"} if left else {}) for key, left in ipset.plain.items()}
    if ipset.kind == "hash:ip" and not {"netmask", "bitmask"} & ipset.options.keys():
        with contextlib.suppress(OSError):  # addresses by the hundred thousand; a range is none
            return {_packed(ipset, element.parts[0]): element for element in ipset.elements}
    found = entries(ipset, nomatch=False)
    return {_key(ipset, entry.columns): entry.element for entry in found if entry.element is not None}


def key_bytes(ipset: IpSet) -> int:
    """How long a key is."""
    lengths = [length for _, length in _layout(ipset)]
    return lengths[0] if len(lengths) == 1 else sum(length + (-length & 3) for length in lengths)


def element_text(ipset: IpSet, key: bytes) -> str:
    """The key, which has the right length, as ipset's commands have it."""
    texts, protocol, at = [], "", 0
    for kind, length in _layout(ipset):
        value = key[at : at + length]
        at += length + (-length & 3)
        if kind == "protocol":
            protocol = _protocol_text(value[0])
        elif kind == "port":
            texts.append(_port_text(protocol, int.from_bytes(value, "big")))
            protocol = ""
        elif kind == "ip":
            texts.append(socket.inet_ntop(socket.AF_INET6 if ipset.v6 else socket.AF_INET, value))
        elif kind == "mac":
            texts.append(value.hex(":"))
        else:
            texts.append(f"{int.from_bytes(value, sys.byteorder):#x}")
    return ",".join(texts)


def _layout(ipset: IpSet) -> list[tuple[str, int]]:
    """The fields of a key, with their bytes."""
    found = []
    for field in ipset.fields:
        if field == "port" and ipset.kind != "bitmap:port":
            found.append(("protocol", 1))
        found.append((field, {"ip": 16 if ipset.v6 else 4, "port": 2, "mac": 6, "mark": 4}[field]))
    return found


def _key(ipset: IpSet, columns: tuple[str, ...]) -> bytes:
    values = []
    for field, column in zip(ipset.fields, columns, strict=True):
        if field == "ip":
            values.append(_packed(ipset, column))
        elif field == "port":
            protocol, _, port = column.rpartition(" . ")
            if protocol:
                values.append(bytes([_protocol_number(protocol)]))
            values.append(int(port).to_bytes(2, "big"))
        elif field == "mac":
            values.append(bytes.fromhex(column.replace(":", "")))
        else:
            values.append(int(column, 0).to_bytes(4, sys.byteorder))
    if len(values) == 1:
        return values[0]
    return b"".join(value + bytes(-len(value) & 3) for value in values)


def _packed(ipset: IpSet, address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ipset.v6 else socket.AF_INET, address)


def _protocol_number(name: str) -> int:
    return int(name) if name.isdecimal() else socket.getprotobyname("ipv6-icmp" if name == "icmpv6" else name)


_NUMBERS = {_protocol_number(name): name for name in (*WITH_PORTS, *ICMP)}


def _protocol_text(number: int) -> str:
    return _NUMBERS.get(number, f"{number}")


def _port_text(protocol: str, number: int) -> str:
    if not protocol:
        return f"{number}"
    return f"{protocol}:{number >> 8}/{number & 255}" if protocol in ICMP else f"{protocol}:{number}"
