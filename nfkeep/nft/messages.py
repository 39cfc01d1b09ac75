"""nfnetlink messages, and a batch of them as the bytes of one transaction. Pure packing, no I/O.

linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h name the numbers. Headers are in the byte order of the
host.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs

from nfkeep.nft.wire import MESSAGE_HEAD, u32

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_NEWRULE = 0, 2, 3, 4, 6
NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 9, 12, 14
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ, NFT_MSG_DELOBJ = 18, 19, 20

_NFPROTO_UNSPEC, NFPROTO_INET = 0, 1
_BIG = struct.Struct("!H").unpack(struct.pack("=H", NFNL_SUBSYS_NFTABLES))[0]


@attrs.frozen(slots=True)
class Message:
    """One message of a batch: NFT_MSG_*, NLM_F_* beside REQUEST, its attributes, and what it is, for errors.

    `family`: that of the table, NFPROTO_*.
    """

    kind: int
    flags: int
    body: bytes = attrs.field(repr=False)
    what: str
    family: int = NFPROTO_INET


def batch(messages: Sequence[Message], sequence: int, generation: int | None = None) -> bytes:
    """One transaction. The beginning has the number `sequence`, the messages those after it; the last is acknowledged.

    With a `generation` the kernel refuses it (ERESTART) if there was a change since.
    Kernels before 6.10 acknowledge neither the beginning nor the end (nfnetlink_rcv_batch() in nfnetlink.c).
    """
    last = len(messages)
    condition = b"" if generation is None else u32(1, generation)  # NFNL_BATCH_GENID
    parts = [_head(NFNL_MSG_BATCH_BEGIN, 0, sequence, len(condition), _NFPROTO_UNSPEC, _BIG) + condition]
    for number, each in enumerate(messages, 1):
        parts.append(frame(each, sequence + number, NLM_F_ACK if number == last else 0))
    parts.append(_head(NFNL_MSG_BATCH_END, 0, sequence + last + 1, 0, _NFPROTO_UNSPEC, _BIG))
    return b"".join(parts)


def frame(message: Message, sequence: int, flags: int = 0) -> bytes:
    """One message with its headers."""
    kind = NFNL_SUBSYS_NFTABLES << 8 | message.kind
    return _head(kind, message.flags | flags, sequence, len(message.body), message.family, 0) + message.body


def _head(kind: int, flags: int, sequence: int, length: int, family: int, resource: int) -> bytes:
    size = MESSAGE_HEAD.size + length
    return MESSAGE_HEAD.pack(size, kind, NLM_F_REQUEST | flags, sequence & 0xFFFFFFFF, 0, family, 0, resource)
