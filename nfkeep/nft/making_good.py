"""Counters and quotas of rules in force that get what they have too little, while packets pass them.

A rule takes its own place with more in its counter, and a quota of its own is made anew with more used up, in one
transaction; between the two it is a rule that does nothing. What the rule counts between the reading and that is told
by the kernel, and is what is missing next.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.model import Counters
from nfkeep.nft.quotas import read_quotas, with_used
from nfkeep.nft.replaced_rules import ReplacedRules
from nfkeep.nft.rule_again import again
from nfkeep.nft.rule_counters import read_again

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.messages import Message
    from nfkeep.nft.quotas import SeenQuota
    from nfkeep.nft.replaced_rules import Place
    from nfkeep.nft.rule_again import Again
    from nfkeep.nft.rule_counters import SeenRule

_AT_ONCE = 10
"""Rules that are set in one go: more of them, and more packets would pass meanwhile."""
_ROUNDS = 100
"""One takes some 0.2 ms: at a thousand packets a second, most rules need no second one."""
_MOST = (1 << 63) - 1
"""Bytes that a quota counts: it has 64 bits with a sign (nft_overquota())."""


@attrs.define
class Lack:
    """What the counter of a rule has too little or, below zero, too much.

    `quota`: one that no other rule asks, and right behind which this one counts; "" for none. It gets as much used up:
    `ahead` more than the rule has counted then.
    """

    rule: SeenRule
    packets: int
    bytes: int
    quota: str = ""
    ahead: int = 0

    @property
    def any(self) -> bool:
        """Whether there is anything to make good."""
        return bool(self.packets or self.bytes)

    def made_good(self, rule: Again, now: Counters, quota: SeenQuota | None) -> list[Message]:
        """The messages for it, if the rule has counted so much by `now`, and the quota was as it is here before."""
        wanted = Counters(max(0, now.packets + self.packets), max(0, now.bytes + self.bytes))
        messages = rule.messages(wanted)
        if quota is None:
            return messages
        used = max(quota.used, wanted.bytes + self.ahead)  # what it has refused, which nobody counts, ends it for good
        return [rule.bare(), *with_used(quota, min(used, _MOST)), *messages]

    def look_back(self, gone: Mapping[Place, Counters], before: Counters) -> None:
        """What passed between the reading, with `before`, and the change is what is missing now."""
        rule = self.rule
        after = gone.get((rule.family, rule.table, rule.handle))
        if after is None:
            raise NfkeepError(f"nobody told what rule {rule.handle} of {rule.chain} had counted")
        self.packets, self.bytes = after.packets - before.packets, after.bytes - before.bytes


def make_good(opened: BatchSocket, lacks: Sequence[Lack]) -> None:
    """Add what is missing, and again what has passed meanwhile, until nothing has; so often at the most.

    What each lacks then is in it. Rules with a limit of their own are set once: that is full again each time. Raises
    NfkeepError.
    """
    with ReplacedRules() as replaced:
        for at in range(0, len(lacks), _AT_ONCE):
            _make_good(opened, lacks[at : at + _AT_ONCE], replaced)


def _make_good(opened: BatchSocket, lacks: Sequence[Lack], replaced: ReplacedRules) -> None:
    numbers = itertools.count(1)
    ready = [(each, again(opened, each.rule, numbers)) for each in lacks]
    for _ in range(_ROUNDS):
        replaced.take()
        some = [each for each, _ in ready]
        quotas = _quotas(opened, some)
        counted = [rule.counters or Counters() for rule in read_again(opened, [each.rule for each in some])]
        changes = (
            each.made_good(rule, now, quota) for (each, rule), now, quota in zip(ready, counted, quotas, strict=True)
        )
        opened.run([message for messages in changes for message in messages])
        for each in some:  # should nobody tell what it lacks now: it has not that to get again
            each.packets = each.bytes = 0
        gone = replaced.take()
        for each, before in zip(some, counted, strict=True):
            each.look_back(gone, before)
        ready = [(each, rule) for each, rule in ready if each.any and not rule.forgets]
        if not ready:
            return


def _quotas(opened: BatchSocket, lacks: Sequence[Lack]) -> list[SeenQuota | None]:
    """The quota of each; None of those that have none."""
    names = [(each.rule.table, each.quota) for each in lacks if each.quota]
    found = iter(read_quotas(opened, lacks[0].rule.family, names))
    return [next(found) if each.quota else None for each in lacks]
