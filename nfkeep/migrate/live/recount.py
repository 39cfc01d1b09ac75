"""Counts of connections in nft that begin anew, in the moment in which all that are live are about to be counted again.

Whoever was refused stays in the kernel's list of an address until somebody new comes (find_or_evict() in
nf_conncount.c), above the limit. Opening packets of live connections would be refused then in their turn, and an answer
of REJECT --reject-with tcp-reset closes their entry (nf_ct_set_closing()), for which they are taken off the list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.live.commands import run_nft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nfkeep.migrate.script import NftTable


def counts_anew(tables: Iterable[NftTable]) -> Callable[[], None]:
    """What makes the counts in these tables begin anew: to be called while nobody gets in."""
    script = "".join(
        f"flush set {table.family} {table.name} {each.name}\n"
        for table in tables
        for each in table.declarations
        if each.connections
    )

    def flush() -> None:
        if script:
            run_nft(script)

    return flush
