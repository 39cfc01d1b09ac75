"""Which rules are in force: what the kernel has, beside what is on record.

A table of nft that has the name of one that the move has made may be somebody else's by now. It is the move's if its
rules are in it, as ties.json has them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nfkeep.migrate.live import parking, record, ties
from nfkeep.migrate.live.commands import NFT_FAMILY
from nfkeep.migrate.live.host import save_text
from nfkeep.model import Family
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.rule_counters import list_rules, seen
from nfkeep.nft.table_list import tables
from nfkeep.xtables.tables import in_use

if TYPE_CHECKING:
    from nfkeep.migrate.live.parking import Name
    from nfkeep.migrate.live.record import Record
    from nfkeep.migrate.live.ties import MadeTable
    from nfkeep.nft.table_list import SeenTable


def speaking() -> list[Name]:
    """The legacy tables that are in force and say anything."""
    lines = ((line, family) for family in Family for line in save_text(family).split("\n"))
    names = [(line[1:], family) for line, family in lines if line[:1] == "*"]
    return [name for name in names if not parking.is_parked(*name)]


def parked() -> list[Name]:
    """The legacy tables that are out of action."""
    names = [(table, family) for family in Family for table in in_use(family)]
    return [name for name in names if parking.is_parked(*name)]


def is_loaded(done: Record) -> bool:
    """Whether all tables of nft that the move has made are there, awake and with its rules."""
    with contextlib.closing(BatchSocket()) as opened:
        there = {each.key: each for each in tables(opened)}
        own = record.own_tables(done, {key: each.handle for key, each in there.items()})
        if not done.nft or own != set(done.nft) or any(there[key].dormant for key in own):
            return False
        noted = ties.load()
        if noted is None or not noted.same_boot:  # not yet; or a file has loaded them, which its owner may change
            return True
        made = {
            (NFT_FAMILY[each.family], name): table for each in noted.families for name, table in each.tables.items()
        }
        return all(_has_rules(opened, there[key], made[key]) for key in own & made.keys())


def _has_rules(opened: BatchSocket, table: SeenTable, made: MadeTable) -> bool:
    """Whether a table has rules of the move: some if it is the same one, all of them if it was loaded anew."""
    rules = seen(table.family, list_rules(opened, table.family, table.name))
    found = {(rule.chain, ties.digest(rule)) for rule in rules}
    wanted = {(chain, digest) for chain, some in made.chains.items() for _, digest in some}
    return not (wanted and found.isdisjoint(wanted)) if table.handle == made.handle else wanted <= found
