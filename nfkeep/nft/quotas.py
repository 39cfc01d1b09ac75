"""Named quotas of nftables, read; and made anew with more used up, since no command uses up more of one that is there.

What is used up is set when a quota is made and only then: what changes one sets its limit (nft_quota_obj_update() in
net/netfilter/nft_quota.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.nft.messages import (
    NFT_MSG_DELOBJ,
    NFT_MSG_GETOBJ,
    NFT_MSG_NEWOBJ,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
)
from nfkeep.nft.wire import attribute, attributes, nest, string, u32, u64
from nfkeep.plenty import plenty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.rule_counters import SeenRule

_TABLE, _NAME, _TYPE, _DATA, _USERDATA = 1, 2, 3, 4, 8  # NFTA_OBJ_*
_QUOTA = 2  # NFT_OBJECT_QUOTA
_BYTES, _FLAGS, _CONSUMED = 1, 2, 4  # NFTA_QUOTA_*
_INVERTED = 1  # NFT_QUOTA_F_INV; the other flag the kernel tells only
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2  # NFTA_EXPR_*
_IMMEDIATE_TYPE, _IMMEDIATE_NAME = 1, 2  # NFTA_OBJREF_IMM_*


@plenty(slots=True)
class SeenQuota:
    """A quota as the kernel tells of it: of how many bytes the `whole` is, and how many are `used`.

    `family` is a number; `inverted`: rules go on with packets behind its end, not before.
    """

    family: int
    table: str
    name: str
    whole: int
    used: int
    inverted: bool
    userdata: bytes | None


def read_quotas(opened: BatchSocket, family: int, names: Sequence[tuple[str, str]]) -> list[SeenQuota]:
    """Each quota, by table and name. Raises as `BatchSocket.ask` does."""
    questions = [Message(NFT_MSG_GETOBJ, 0, _which(table, name), f"the quota {name}", family) for table, name in names]
    return [_seen(family, answer) for answer in opened.ask(questions)] if questions else []


def with_used(quota: SeenQuota, used: int) -> list[Message]:
    """The messages that make it anew with so many bytes used up; no rule may use it at that time."""
    figures = u64(_BYTES, quota.whole) + u64(_CONSUMED, used) + u32(_FLAGS, _INVERTED if quota.inverted else 0)
    which, what = _which(quota.table, quota.name), f"the quota {quota.name}"
    body = which + nest(_DATA, figures)
    if quota.userdata is not None:
        body += attribute(_USERDATA, quota.userdata)
    return [
        Message(NFT_MSG_DELOBJ, 0, which, what, quota.family),
        Message(NFT_MSG_NEWOBJ, NLM_F_CREATE | NLM_F_EXCL, body, what, quota.family),
    ]


def quota_names(rule: SeenRule) -> list[str]:
    """The names of the quotas that a rule asks, in its order."""
    if b"objref\0" not in rule.expressions:
        return []
    found = []
    for _, expression in attributes(rule.expressions):
        told = dict(attributes(expression))
        if told[_EXPRESSION_NAME] != b"objref\0":
            continue
        data = dict(attributes(told[_EXPRESSION_DATA]))
        if int.from_bytes(data.get(_IMMEDIATE_TYPE, b""), "big") == _QUOTA:
            found.append(data[_IMMEDIATE_NAME].rstrip(b"\0").decode(errors="surrogateescape"))
    return found


def _which(table: str, name: str) -> bytes:
    return string(_TABLE, table) + string(_NAME, name) + u32(_TYPE, _QUOTA)


def _seen(family: int, told: bytes) -> SeenQuota:
    found = dict(attributes(told))
    data = {kind: int.from_bytes(value, "big") for kind, value in attributes(found[_DATA])}
    table, name = (found[each].rstrip(b"\0").decode(errors="surrogateescape") for each in (_TABLE, _NAME))
    inverted = bool(data[_FLAGS] & _INVERTED)
    return SeenQuota(family, table, name, data[_BYTES], data[_CONSUMED], inverted, found.get(_USERDATA))
