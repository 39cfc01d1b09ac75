"""Counts of connections in nft that begin anew, in the moment in which all that are live are about to be counted again.

Whoever was refused stays in the kernel's list of an address until somebody new comes (find_or_evict() in
nf_conncount.c), above the limit. Opening packets of live connections would be refused then in their turn, and an answer
of REJECT --reject-with tcp-reset closes their entry (nf_ct_set_closing()), for which they are taken off the list.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nfkeep.migrate.live.commands import run_nft, run_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PREFIX = "connlimit-"
"""What the names of the sets begin with, each of which stands for one rule (nfkeep.migrate.matches.connlimit)."""


def counts_anew(tables: Iterable[tuple[str, str]]) -> Callable[[], None]:
    """What makes those in these tables of nft, (family, name), begin anew: to be called while nobody gets in.

    They are looked for now, so that the call itself is short.
    """
    wanted = set(tables)
    listing = json.loads(run_tool(["nft", "-j", "-t", "list", "sets"]))["nftables"]
    sets = [each["set"] for each in listing if "set" in each and each["set"]["name"].startswith(PREFIX)]
    script = "".join(
        f"flush set {each['family']} {each['table']} {each['name']}\n"
        for each in sets
        if (each["family"], each["table"]) in wanted
    )

    def flush() -> None:
        if script:
            run_nft(script)

    return flush
