"""Which base chains nftables has here, whoever made them: what other rules a packet passes on its way.

net/netfilter/nf_tables_api.c, nf_tables_dump_chains().
"""

from __future__ import annotations

import os
import socket
import struct

import attrs

from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.nft.encode import MESSAGE_HEAD, NFNL_SUBSYS_NFTABLES, attributes

_NETLINK_NETFILTER = 12
_GETCHAIN = 4
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_TABLE, _NAME, _HOOK, _USE, _TYPE = 1, 3, 4, 6, 7  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*


@attrs.frozen(slots=True)
class SeenChain:
    """A base chain: the family of its table (inet, ip or ip6), table, name, hook (NF_INET_*), priority, rules in it."""

    family: str
    table: str
    name: str
    hook: int
    priority: int
    rules: int


def filtering_chains() -> tuple[SeenChain, ...]:
    """The base chains for IP packets in this network namespace, but for those of type nat.

    Raises UnsupportedError on a kernel without nf_tables.
    """
    found = []
    with _socket() as asking:
        request = MESSAGE_HEAD.pack(
            MESSAGE_HEAD.size, NFNL_SUBSYS_NFTABLES << 8 | _GETCHAIN, _REQUEST_DUMP, 1, 0, socket.AF_UNSPEC, 0, 0
        )
        asking.sendto(request, (0, 0))
        done = False
        while not done:
            data, at = asking.recv(1 << 17), 0
            while at + MESSAGE_HEAD.size <= len(data):
                length, kind, _, _, _, family, _, _ = MESSAGE_HEAD.unpack_from(data, at)
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    raise NfkeepError(f"listing the chains of nftables: {os.strerror(number)}")
                done = done or kind == _DONE
                if kind != _DONE and (chain := _chain(family, data[at + MESSAGE_HEAD.size : at + length])) is not None:
                    found.append(chain)
                at += max(length + (-length & 3), MESSAGE_HEAD.size)
    return tuple(found)


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise UnsupportedError(f"no nfnetlink socket: {error}", "nfnetlink") from error


def _chain(family: int, data: bytes) -> SeenChain | None:
    told = dict(attributes(data))
    if family not in _FAMILIES or _HOOK not in told or told.get(_TYPE) == b"nat\0":
        return None
    hook = dict(attributes(told[_HOOK]))
    return SeenChain(
        _FAMILIES[family],
        _text(told[_TABLE]),
        _text(told[_NAME]),
        *struct.unpack("!I", hook[_HOOK_NUMBER]),
        *struct.unpack("!i", hook[_HOOK_PRIORITY]),
        *struct.unpack("!I", told[_USE]),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")
