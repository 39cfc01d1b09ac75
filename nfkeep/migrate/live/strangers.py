"""What others have put into nft's tables of a move: it goes with these when the move is undone, and that is told."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.ipset_keys import FIELDS
from nfkeep.migrate.ipset_nft import written
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.live.commands import NFT_FAMILY, run_tool
from nfkeep.migrate.loss import Lost
from nfkeep.nft.named import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.live.counted import Counted
    from nfkeep.migrate.live.ties import TiedSet
    from nfkeep.nft.batch import BatchSocket

_RULE = re.compile(r"\t\t(.*) # handle (\d+)")
_COMMENT = re.compile(r' comment "[^"]*"')
_OPTIONS = re.compile(r" (?:timeout|expires|counter) .*")
_MOST = 5
"""Of a set's elements so many are named."""


def strangers(opened: BatchSocket, counted: Counted, kept: Callable[[], Mapping[str, IpSet]]) -> Iterator[Outcome]:
    """All that is not the move's in the tables of a family, whose rules were read before.

    `kept`: the sets of ipset when the move began. Elements of the kinds that are brought back to ipset are left out.
    """
    family = NFT_FAMILY[counted.tied.family]
    own = {(table, kind, name) for table, made in counted.tied.tables.items() for kind, name in made.names}
    for table, kind, name in named(opened, counted.tied.family.value):
        if table in counted.tables and (table, kind, name) not in own:
            yield Outcome(kind, f"nft {family} {table} {name}", Fidelity.LOST, "added to nft's table since")
    chains = dict.fromkeys((rule.table, rule.chain) for rule in counted.others)
    texts = {chain: _texts(family, *chain) for chain in chains}
    for rule in counted.others:
        where = f"nft {family} {rule.table} {rule.chain}"
        text = texts[rule.table, rule.chain].get(rule.handle, f"the one with the handle {rule.handle}")
        yield Outcome("rule", where, Fidelity.LOST, f"added to nft's table since, or changed: {text}")
    for tied in counted.tied.sets:
        ipset = kept().get(tied.name)
        if (
            ipset is not None
            and not set(ipset.fields) <= FIELDS
            and (found := _elements_of_others(family, tied, ipset))
        ):
            named_ones = ", ".join(found[:_MOST]) + ("" if len(found) <= _MOST else ", …")
            detail = f"{len(found)} elements that were added to nft's set since: {named_ones}"
            yield Outcome("ipset", f"set {tied.name}", Fidelity.LOST, detail)


def _elements_of_others(family: str, tied: TiedSet, kept: IpSet) -> list[str]:
    """Those of nft's set that ipset has not, nor had; none where that cannot be told."""
    with contextlib.suppress(Lost, NfkeepError):
        now = read_ipsets(run_tool(["ipset", "save", tied.name]))[tied.name]
        own: set[str] = set()
        for each in (kept, now):
            _, members = written(each, nomatch=False, changing=tied.changing)
            own.update(_elements("\n".join(members.lines())))
        _, _, listed = run_tool(["nft", "list", "set", family, tied.table, tied.nft_name]).partition("elements = {")
        return [each for each in _elements(_COMMENT.sub("", listed).partition("}")[0]) if each not in own]
    return []


def _elements(text: str) -> Iterator[str]:
    """Elements as nft's language has them, without what is told of each."""
    for each in _COMMENT.sub("", text).replace('"', "").split(","):
        if words := _OPTIONS.sub("", " ".join(each.split())):
            yield words


def _texts(family: str, table: str, chain: str) -> dict[int, str]:
    """The rules of a chain by handle; none if nft cannot print them."""
    with contextlib.suppress(NfkeepError):
        listed = run_tool(["nft", "-a", "list", "chain", family, table, chain])
        return {int(found[2]): found[1] for found in map(_RULE.fullmatch, listed.splitlines()) if found}
    return {}
