"""Which base chains nftables has here, whoever made them: what other rules a packet passes on its way.

net/netfilter/nf_tables_api.c, nf_tables_dump_chains().
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs

from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.messages import NFT_MSG_GETCHAIN
from nfkeep.nft.wire import attributes

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


def filtering_chains(dump: Callable[[int], list[tuple[int, bytes]]] | None = None) -> tuple[SeenChain, ...]:
    """The base chains for IP packets in this network namespace, but for those of type nat.

    `dump`: that of a socket which is open; one of its own, closed behind a change of nftables, waits for an RCU grace
    period (8-20 ms). Raises UnsupportedError on a kernel without nf_tables.
    """
    if dump is not None:
        listed = dump(NFT_MSG_GETCHAIN)
    else:
        asking = BatchSocket()
        try:
            listed = asking.dump(NFT_MSG_GETCHAIN)
        finally:
            asking.close()
    return tuple(chain for family, told in listed if (chain := _chain(family, told)) is not None)


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
