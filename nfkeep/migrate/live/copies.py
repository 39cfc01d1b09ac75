"""Rules of iptables-nft, moved by way of a copy in legacy tables, out of action but for what counts connections.

The tables of iptables-nft are gone in the transaction that brings nft's own into force: the copy is what the host
goes back to, with its state, before they are made again from it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Report
from nfkeep.migrate.live import parking
from nfkeep.migrate.live.commands import NFT_FAMILY, restore_iptables
from nfkeep.migrate.live.host import save_text
from nfkeep.migrate.live.iptables_nft import read_rules
from nfkeep.migrate.live.record import boot
from nfkeep.model import Family
from nfkeep.nft.table_list import table_handles
from nfkeep.xtables.tables import in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.keep.report import Outcome
    from nfkeep.migrate.live.host import Host
    from nfkeep.migrate.live.record import Record

_ANEW = "begins anew: the rules of iptables-nft cannot be told what is used up"
_COUNTERS = re.compile(r"^\[\d+:\d+\] | \[\d+:\d+\]$", re.MULTILINE)


def make(host: Host) -> None:
    """Copy the rules that are in tables of iptables-nft."""
    for family in host.compat:
        parking.place(host.rules[family], family)


def last_rules(host: Host, done: Record) -> dict[Family, str]:
    """What the rules of iptables-nft have counted, for the moment before they go.

    Raises NfkeepError if they are not those any more that were copied.
    """
    found = {}
    there = table_handles()
    if any(there.get((family, name)) != handle for family, name, handle in done.replaced):
        raise NfkeepError("somebody has made the tables of iptables-nft anew meanwhile; try again")
    for family in host.compat:
        found[family], _ = read_rules(family, host.iptables_nft)
        if _COUNTERS.sub("", found[family]) != _COUNTERS.sub("", host.rules[family]):
            raise NfkeepError(f"somebody has changed the {family} rules of iptables-nft meanwhile; try again")
    return found


def present(done: Record) -> list[tuple[str, Family]]:
    """The tables that are only there because of the move."""
    return [(table, family) for table, family in done.copies if table in in_use(family)]


def are_superfluous(done: Record) -> bool:
    """Whether the tables of iptables-nft, of which there are copies, are there."""
    if not done.copies or not done.replaced or done.boot != boot():
        return False
    there = table_handles()
    return all(there.get((family, name)) == handle for family, name, handle in done.replaced)


def give_back(done: Record, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Have iptables-nft make its tables again, with what the copies have counted; connections are counted again.

    `outcomes`: what came of the copies when they were put into action. Returns what comes of iptables-nft's rules.
    """
    names = present(done)
    texts = {family: save_text(family) for _, family in names}

    def load() -> None:
        for family, text in texts.items():
            restore_iptables("nft", family, text)

    counted = parking.count_again(parking.limited(names), load) or Report()
    kept = [attrs.evolve(o, fidelity=Fidelity.LOST, detail=_ANEW) if o.kind == "quota" else o for o in outcomes]
    again = [each for each in counted.outcomes if each.kind == "connlimit"]
    return [*(each for each in kept if each.kind != "connlimit"), *again]


def given_back(done: Record) -> Record:
    """The record with those tables as they are now."""
    wanted = {(NFT_FAMILY[family], table) for table, family in done.copies}
    return attrs.evolve(done, replaced=tuple((*each, at) for each, at in table_handles().items() if each in wanted))
