"""What others have put into nft's tables of a move: it goes with these when the move is undone, and that is told."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live.commands import NFT_FAMILY, run_tool
from nfkeep.nft.named import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.live.counted import Counted
    from nfkeep.nft.batch import BatchSocket

_RULE = re.compile(r"\t\t(.*) # handle (\d+)")


def strangers(opened: BatchSocket, counted: Counted) -> Iterator[Outcome]:
    """All that is not the move's in the tables of a family, whose rules were read before."""
    family = NFT_FAMILY[counted.tied.family]
    own = {(table, kind, name) for table, made in counted.tied.tables.items() for kind, name in made.names}
    for table, kind, name in named(opened, counted.tied.family.value):
        if table in counted.tied.tables and (table, kind, name) not in own:
            yield Outcome(kind, f"nft {family} {table} {name}", Fidelity.LOST, "added to nft's table since")
    chains = dict.fromkeys((rule.table, rule.chain) for rule in counted.others)
    texts = {chain: _texts(family, *chain) for chain in chains}
    for rule in counted.others:
        where = f"nft {family} {rule.table} {rule.chain}"
        text = texts[rule.table, rule.chain].get(rule.handle, f"the one with the handle {rule.handle}")
        yield Outcome("rule", where, Fidelity.LOST, f"added to nft's table since, or changed: {text}")


def _texts(family: str, table: str, chain: str) -> dict[int, str]:
    """The rules of a chain by handle; none if nft cannot print them."""
    with contextlib.suppress(NfkeepError):
        listed = run_tool(["nft", "-a", "list", "chain", family, table, chain])
        return {int(found[2]): found[1] for found in map(_RULE.fullmatch, listed.splitlines()) if found}
    return {}
