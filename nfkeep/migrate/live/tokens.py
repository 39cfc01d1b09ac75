"""Keys of hashlimit, with the tokens that each has left, into the sets of nft that stand for them.

That is done while both rulesets are in force. What nft has counted until then is forgotten, iptables' buckets are read,
and those of nft brought to the same level; from there on both refill alike. A packet that comes between the forgetting
and the reading, some milliseconds, counts twice in nft. Nothing can read nft's tokens, so nothing is carried back.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.hashlimit import Asked, Limit, missing, packed_key, set_names
from nfkeep.migrate.live.host import source_of
from nfkeep.migrate.names import identifier
from nfkeep.migrate.placement import place_tables
from nfkeep.migrate.source import rules_of
from nfkeep.migrate.survey import Survey
from nfkeep.model import Family
from nfkeep.nft.batch import BatchSocket
from nfkeep.xtables.hashlimit import buckets, read_buckets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nfkeep.migrate.translation import Translation
    from nfkeep.nft.tokens import LimitedSet
    from nfkeep.xtables.hashlimit import Bucket

KIND = "hashlimit"
_NAME = "--hashlimit-name"
PATIENCE_SECONDS = 10.0
"""For one table: nobody waits for it, but the move is not done. A token takes some 60 ns, a key some 15 µs."""

_ON_THE_WAY = "what it sends in the milliseconds of the change may count twice"
_WHOLE = 1e-6
"""What a packet's token may lack by rounding and still be none that is missing."""


@attrs.frozen(slots=True)
class Keys:
    """A table of hashlimit that rules name, and the table in which nft has its two sets; none without a `limit`."""

    family: Family
    name: str
    table: str
    limit: Limit | None
    over: bool = False

    @property
    def where(self) -> str:
        """What outcomes call it."""
        return f"{self.family}, keys of {self.name}"

    def planned(self) -> Outcome:
        """What is to come of it, by what the table holds now."""
        return self._outcome(buckets(self.name, self.family) or 0)

    def carry(self, opened: BatchSocket) -> Outcome:
        """Bring the sets to the level of iptables; what came of it."""
        if self.limit is None:
            return self._outcome(0)
        try:
            return self._outcome(self._carried(opened, self.limit))
        except NfkeepError as error:  # no reason to undo the move
            return Outcome(KIND, self.where, Fidelity.APPROXIMATED, f"keys may begin full, one burst more: {error}")

    def _outcome(self, number: int) -> Outcome:
        if self.limit is None:
            return Outcome(KIND, self.where, Fidelity.LOST, "nft has none of its rules")
        within = "the bytes of a packet" if self.limit.in_bytes else "one"
        detail = f"{number} keys, each with its tokens, within {within}; {_ON_THE_WAY}"
        return Outcome(KIND, self.where, Fidelity.RESTORED, detail)

    def _carried(self, opened: BatchSocket, limit: Limit) -> int:
        from nfkeep.nft.tokens import Drain, add_keys  # not by those who have no such table

        found = self._read(limit)
        if not found:
            return 0
        known, limits = self._sets(limit)
        left = {key: _left_ms(bucket, limit) for key, (_, bucket) in found.items()}
        short = {key: left[key] for key, (read, bucket) in found.items() if _missing(limits, bucket, read)}
        opened.run(add_keys(known, left, plain=True))
        with Drain(opened, limits, short, key_bytes=len(next(iter(found)))) as drain:
            now, until = self._read(limit), time.monotonic() + PATIENCE_SECONDS
            for number, (key, (read, bucket)) in enumerate(now.items()):
                if time.monotonic() > until:
                    raise NfkeepError(
                        f"only {number} of {len(now)} keys had their turn in {PATIENCE_SECONDS:.0f} seconds"
                    )
                drain.take(key, _missing(limits, bucket, read))
            drain.check()
        return len(found)

    def _read(self, limit: Limit) -> dict[bytes, tuple[float, Bucket]]:
        read = read_buckets(self.name, self.family)
        return {packed_key(limit, each.addresses, each.ports): (at, each) for at, each in read}

    def _sets(self, limit: Limit) -> tuple[LimitedSet, LimitedSet]:
        from nfkeep.nft.tokens import LimitedSet

        in_nft = limit.in_nft(over=self.over)
        known, limits = (
            LimitedSet(self.family, self.table, identifier(name), limit.expire, in_nft) for name in set_names(self.name)
        )
        return known, limits


def carry(every: Sequence[Keys]) -> dict[str, Outcome]:
    """Carry all of these; what came of each, by where it is."""
    if not every:
        return {}
    opened = BatchSocket()
    try:
        return {keys.where: keys.carry(opened) for keys in every}
    finally:
        opened.close()


def keys_of(text: str, family: Family, translation: Translation) -> Iterator[Keys]:
    """The tables of hashlimit that rules of iptables-save text name, of which this is the translation."""
    if _NAME not in text:
        return
    source = source_of(text, family)
    survey = Survey(source)
    places = {table.name: place.name for place in place_tables(source) for table in place.tables}
    named = {
        rule.words[at + 1]: table.name
        for table, _, rule in rules_of(source)
        for at, word in enumerate(rule.words[:-1])
        if word == _NAME
    }
    declared = {each.name for table in translation.tables for each in table.declarations if each.kind == "set"}
    for name, table in named.items():
        uses = Asked.every(survey, name, 128 if family is Family.IPV6 else 32)
        there = declared.issuperset(map(identifier, set_names(name)))
        yield Keys(family, name, places[table], uses[0].limit if uses and there else None, all(u.above for u in uses))


def _missing(limited: LimitedSet, bucket: Bucket, read: float) -> int:
    """What a bucket that was read then has too little now: rounded up, so that no packet passes that would not."""
    since = time.monotonic() - read
    return math.ceil(missing(limited.limit, bucket.credit, bucket.cap, bucket.cost, since) - _WHOLE)


def _left_ms(bucket: Bucket, limit: Limit) -> int:
    """How long nft is to keep the key: no less than iptables, which tells whole seconds."""
    return min(limit.expire, 1000 * (max(0, bucket.seconds_left) + 1))
