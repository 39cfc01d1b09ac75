"""Conntrack entries in bulk, made and read in Python: thousands that no real connection has to open first.

Written apart from csrc/ on purpose, so that no test reads entries with the code that it tests.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

import attrs

from nfkeep.model import Family
from nfkeep.namespaces import Namespace
from nfkeep.nft.wire import MESSAGE_HEAD, attribute, attributes, nest

ICMP, TCP, UDP, GRE, ICMPV6, SCTP = 1, 6, 17, 47, 58, 132
DUMP = 0x300  # NLM_F_DUMP

_NETLINK_NETFILTER = 12
_NEW, _GET, _DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x600  # NLM_F_*
_DONE = 3
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _TIMEOUT, _ID, _ZONE = 1, 2, 3, 7, 12, 18  # CTA_*
_PROTOINFO, _NAT_SRC, _MARK, _NAT_DST = 4, 6, 8, 13
_SEEN_REPLY, _OFFLOAD = 1 << 1, 1 << 14  # IPS_*
_ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}  # types of request and reply


@attrs.frozen
class Entry:
    """The original direction of an entry. Without ports, as ICMP, both are 0 or say nothing.

    `identity`, `offloaded` and `replied` are what the kernel says; two entries are equal without regard to them.
    """

    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    zone: int = 0
    identity: int = attrs.field(default=0, eq=False)
    offloaded: bool = attrs.field(default=False, eq=False)
    replied: bool = attrs.field(default=False, eq=False)


def make_entries(namespace: Namespace, family: Family, entries: Iterable[Entry]) -> None:
    """Have the kernel take these, as connections without NAT that last an hour."""
    messages = [_new(family, entry) for entry in entries]
    with _socket(namespace) as channel:
        for at in range(0, len(messages), 100):
            channel.send(b"".join(messages[at : at + 100]))
            for message in messages[at : at + 100]:
                (number,) = struct.unpack_from("=i", channel.recv(16384), 16)
                assert number == 0, (number, message.hex())


def make_entry(
    namespace: Namespace, family: Family, entry: Entry, *, status: int, mark: int = 0,
    new_source: str | None = None, new_destination: str | None = None,
) -> None:  # fmt: skip
    """Have the kernel take one in this IPS_* status, translated to new addresses; TCP is ESTABLISHED."""
    content = _tuple(_TUPLE_ORIG, family, entry) + _tuple(_TUPLE_REPLY, family, entry)
    content += attribute(_TIMEOUT, struct.pack("!I", 3600)) + attribute(_STATUS, struct.pack("!I", status))
    content += attribute(_MARK, struct.pack("!I", mark))
    if entry.protocol == TCP:
        content += nest(_PROTOINFO, nest(1, attribute(1, b"\3")))  # CTA_PROTOINFO_TCP_STATE
    for kind, address in ((_NAT_SRC, new_source), (_NAT_DST, new_destination)):
        if address is not None:
            packed = socket.inet_pton(family.value, address)
            first = 1 if family is Family.IPV4 else 4  # CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP
            content += nest(kind, attribute(first, packed) + attribute(first + 1, packed))
    _ask(namespace, _message(_NEW, _REQUEST | _ACK | _CREATE, family, content))


def delete_entry(namespace: Namespace, family: Family, entry: Entry) -> None:
    """Have the kernel forget one."""
    _ask(namespace, _message(_DELETE, _REQUEST | _ACK, family, _tuple(_TUPLE_ORIG, family, entry)))


def read_entries(namespace: Namespace, family: Family) -> list[Entry]:
    """All entries of a family, of every zone, in the order of the kernel."""
    found = []
    with _socket(namespace) as channel:
        channel.send(_message(_GET, _REQUEST | DUMP, family, b""))
        while True:
            data = channel.recv(32768)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _DONE:
                    return found
                assert kind == _NEW, struct.unpack_from("=i", data, 16)
                if data[16] == family.value:
                    found.append(_entry(family, dict(attributes(data[20:length]))))
                data = data[length:]


def _entry(family: Family, values: dict[int, bytes]) -> Entry:
    original = dict(attributes(values[_TUPLE_ORIG]))
    addresses, protocol = dict(attributes(original[1])), dict(attributes(original[2]))
    first = 1 if family is Family.IPV4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    return Entry(
        protocol[1][0],
        socket.inet_ntop(family.value, addresses[first]),
        socket.inet_ntop(family.value, addresses[first + 1]),
        int.from_bytes(protocol.get(2, b""), "big"),
        int.from_bytes(protocol.get(3, b""), "big"),
        int.from_bytes(values.get(_ZONE) or original.get(3, b""), "big"),  # a zone of one direction is in its tuple
        int.from_bytes(values[_ID], "big"),
        bool(int.from_bytes(values[_STATUS], "big") & _OFFLOAD),
        bool(int.from_bytes(values[_STATUS], "big") & _SEEN_REPLY),
    )


def _ask(namespace: Namespace, message: bytes) -> None:
    with _socket(namespace) as channel:
        channel.send(message)
        (number,) = struct.unpack_from("=i", channel.recv(16384), 16)
        assert number == 0, (number, message.hex())


def _socket(namespace: Namespace) -> socket.socket:
    with namespace:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    channel.settimeout(10)
    channel.bind((0, 0))
    return channel


def _message(kind: int, flags: int, family: Family, content: bytes) -> bytes:
    return MESSAGE_HEAD.pack(MESSAGE_HEAD.size + len(content), kind, flags, 1, 0, family.value, 0, 0) + content


def _new(family: Family, entry: Entry) -> bytes:
    content = _tuple(_TUPLE_ORIG, family, entry) + _tuple(_TUPLE_REPLY, family, entry)
    content += attribute(_TIMEOUT, struct.pack("!I", 3600))
    if entry.zone:
        content += attribute(_ZONE, struct.pack("!H", entry.zone))
    return _message(_NEW, _REQUEST | _ACK | _CREATE, family, content)


def _tuple(kind: int, family: Family, entry: Entry) -> bytes:
    """One direction; that of replies has the ends exchanged."""
    step = 1 if kind == _TUPLE_ORIG else -1
    addresses = [socket.inet_pton(family.value, text) for text in (entry.source, entry.destination)][::step]
    ports = [struct.pack("!H", port) for port in (entry.source_port, entry.destination_port)][::step]
    first = 1 if family is Family.IPV4 else 3
    ip = b"".join(attribute(first + i, address) for i, address in enumerate(addresses))
    protocol = attribute(1, bytes((entry.protocol,)))
    if entry.protocol in _ECHO:
        base = 4 if entry.protocol == ICMP else 7  # CTA_PROTO_ICMP_ID, _TYPE, _CODE
        types = _ECHO[entry.protocol][::step]
        protocol += attribute(base, b"\0\1") + attribute(base + 1, bytes((types[0],))) + attribute(base + 2, b"\0")
    else:
        protocol += attribute(2, ports[0]) + attribute(3, ports[1])
    return nest(kind, nest(1, ip) + nest(2, protocol))
