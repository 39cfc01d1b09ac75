"""What rules of nftables had counted when others took their places: the kernel tells it of each that goes.

It does so once no packet meets them any more (nf_tables_commit() in net/netfilter/nf_tables_api.c), and before the
answer to whoever has made the change.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.nft.batch import open_nfnetlink
from nfkeep.nft.rule_counters import seen

if TYPE_CHECKING:
    from typing_extensions import Self

    from nfkeep.model import Counters

Place = tuple[int, str, int]
"""The number of a rule's family, its table and its handle, which the rule that takes its place has, too."""

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNLGRP_NFTABLES = 7
_DELRULE = 10 << 8 | 8  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELRULE
_SO_RCVBUFFORCE = 33
_ROOM = 1 << 23
_HEAD = struct.Struct("=IHHIIB3x")  # struct nlmsghdr, struct nfgenmsg


class ReplacedRules:
    """Listens from its making on; a context manager. Raises UnsupportedError where there is nothing to listen to."""

    def __init__(self) -> None:
        self._socket = open_nfnetlink()  # one without an address is told nothing
        with contextlib.suppress(PermissionError):  # in a container; there may be room enough
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except OSError as error:
            self._socket.close()
            raise UnsupportedError(f"nobody tells of changes of nftables: {error}", "nfnetlink") from error

    def take(self) -> dict[Place, Counters]:
        """What the first counter of each rule had that has gone since the last time, in the end.

        Raises NfkeepError if too much has happened for the kernel to keep it.
        """
        found: dict[Place, Counters] = {}
        while True:
            try:
                data = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError as error:
                raise NfkeepError(f"what rules had counted in the end is not known: {error}") from error
            at = 0
            while at + _HEAD.size <= len(data):
                length, kind, _, _, _, family = _HEAD.unpack_from(data, at)
                if kind == _DELRULE:
                    [rule] = seen(family, [data[at + _HEAD.size : at + length]])
                    if rule.counters is not None:
                        found[family, rule.table, rule.handle] = rule.counters
                at += max(length + (-length & 3), _HEAD.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
