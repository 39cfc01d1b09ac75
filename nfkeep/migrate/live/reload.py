"""The rules of iptables from the disk: after a move was confirmed there are none in the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live import parking, record
from nfkeep.migrate.live.commands import restore_iptables, run_tool
from nfkeep.migrate.live.host import save_text, source_of
from nfkeep.migrate.live.returned_sets import made_again
from nfkeep.migrate.source import rules_of
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.live.record import Record


def reload(done: Record, *, parked: bool) -> list[Outcome]:
    """Load them, and the sets that they look into where these were destroyed.

    `parked`: out of action, as nft's are in force. Without that every connection is counted again, and quotas begin
    anew. What others have put into these tables since goes, and is told. Raises NfkeepError.
    """
    sets = made_again(record.kept(record.IPSETS), time.time() - done.steps[0][0])
    if sets:
        run_tool(["ipset", "-exist", "restore"], sets)
    outcomes: list[Outcome] = []
    for family, name in record.FILES.items():
        if text := record.kept(name):
            outcomes += [*_replaced(text, family), *_emptied(text, family)]
            restore_iptables("legacy", family, parking.parked_text(text) if parked else text)
    if not parked:
        parking.count_again(parking.limited(done.legacy), lambda: None)
    return outcomes


def _emptied(text: str, family: Family) -> Iterator[Outcome]:
    """The tables of the hashlimit match, which went with their last rule: nobody can write into one."""
    words = (rule.words for _, _, rule in rules_of(source_of(text, family)))
    names = (each[each.index("--hashlimit-name") + 1] for each in words if "--hashlimit-name" in each)
    for name in dict.fromkeys(names):
        yield Outcome("hashlimit", f"{family} {name}", Fidelity.LOST, "confirmed before, so that every key begins full")


def _replaced(text: str, family: Family) -> Iterator[Outcome]:
    """What is in the way of those tables: rules that are not in them."""
    known = {table.name for table in source_of(text, family).tables}
    own = {(table.name, chain.name, rule.words) for table, chain, rule in rules_of(source_of(text, family))}
    for table, chain, rule in rules_of(source_of(save_text(family), family)):
        ours = any(each in rule.text for each in parking.OWN)
        if table.name in known and not ours and (table.name, chain.name, rule.words) not in own:
            where = f"{family} {table.name} {chain.name}"
            yield Outcome("rule", where, Fidelity.LOST, f"added after the move was confirmed: {' '.join(rule.words)}")
