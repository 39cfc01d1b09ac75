"""What is left of nft's quotas, written into the rules of iptables in the very replace that puts them back into force.

The kernel counts a quota down from the figure in its rule, so that has to be the rest; what passes nft's rules between
the reading and the replace comes off at the next change, as the rule's counter has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.ledger import Ledger
from nfkeep.keep.observe import Found, observe
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live.ties import rule_keys, words_of
from nfkeep.nft.quotas import read_quotas
from nfkeep.xtables import quota
from nfkeep.xtables.entry import with_match

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.keep.editing import TableEdits
    from nfkeep.keep.transaction import Transactions
    from nfkeep.migrate.live.counted import Added, Counted
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.ties import RuleKey, Tie
    from nfkeep.model import Counters, Family
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.quotas import SeenQuota


@attrs.frozen(slots=True)
class _Spent:
    """A quota that was written: `left` of `whole` bytes."""

    name: Name
    key: RuleKey
    where: str
    left: int
    whole: int


class ReturnedQuotas:
    """The quotas of all families."""

    def __init__(self, opened: BatchSocket, counted: Mapping[Family, Counted]) -> None:
        self._opened, self._counted = opened, counted
        self._spent: list[_Spent] = []

    def spend(self, txs: Transactions, names: Sequence[Name]) -> None:
        """Write what is left into the rules that are about to be written. Raises NfkeepError: nothing is written."""
        ledger = Ledger()
        for family, counted in self._counted.items():
            tied = {
                (tie.table, tie.key): tie
                for tie in counted.tied.rules
                if tie.quotas and (tie.table, family) in names and counted.total(tie) is not None
            }
            if not tied:
                continue
            counted.read_again(list(tied.values()))
            wanted = [each for tie in tied.values() for each in tie.quotas]
            figures = dict(zip(wanted, read_quotas(self._opened, family.value, wanted), strict=True))
            for table in dict.fromkeys(table for table, _ in tied):
                for found, key in _with_quotas(txs[table, family]):
                    tie = tied.get((table, key[0]))
                    if tie is not None and tie.among == key[1] and (total := counted.total(tie)) is not None:
                        self._write(txs[table, family], found, tie, figures, total, ledger)
        ledger.save()

    def _write(
        self, edits: TableEdits, found: Found, tie: Tie, figures: Mapping[tuple[str, str], SeenQuota],
        total: Counters, ledger: Ledger,
    ) -> None:  # fmt: skip
        rule, at = attrs.evolve(found.rule, counters=total), []
        matches = [(index, match) for index, match in enumerate(found.entry.matches) if match.name == quota.NAME]
        for (index, match), name in zip(matches, tie.quotas, strict=False):
            left = max(0, figures[name].whole - figures[name].used)
            rule = with_match(rule, index, quota.with_quota(match, left))
            at.append((left, figures[name].whole))
        if rule.entry == found.rule.entry:
            return  # nothing has passed, so that it goes on as at any change
        edits.handle.replace(found.chain, found.position, rule)
        now = observe(edits.handle)
        if total.bytes:
            wholes = tuple(whole for _, whole in at)
            ledger.note(edits.family, edits.table, found.chain, rule, wholes)
        for left, whole in at:
            self._spent.append(_Spent((edits.table, edits.family), tie.key, now.where(found), left, whole))

    def outcomes(self, added: Mapping[Name, Added]) -> Iterator[Outcome]:
        """What came of it, once what has passed meanwhile is known."""
        for each in self._spent:
            detail, fidelity = f"{each.left} of {each.whole} bytes are left", Fidelity.RESTORED
            more = added[each.name].counters.get(each.key) if each.name in added else None
            if more is None or more.bytes:
                late = "what has" if more is None else f"{more.bytes} bytes that have"
                detail += f"; {late} passed during the change come off at the next one"
                fidelity = Fidelity.APPROXIMATED
            yield Outcome(quota.NAME, each.where, fidelity, detail)


def _with_quotas(edits: TableEdits) -> list[tuple[Found, tuple[RuleKey, int]]]:
    """The rules with quotas, with their keys and among how many of the same words they are."""
    now = observe(edits.handle)
    by_chain: dict[str, list[Found]] = {}
    for found in now.found:
        if any(found.matches(quota.NAME)):
            by_chain.setdefault(found.chain, []).append(found)
    return [
        each
        for chain, some in by_chain.items()
        for each in zip(some, rule_keys(chain, (words_of(str(f.rule)) for f in some), policy=False), strict=True)
    ]
