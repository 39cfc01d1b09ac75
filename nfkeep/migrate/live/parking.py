"""Legacy tables put out of action, and back, without taking anything out of them.

A rule that accepts everything comes first in each base chain: one atomic replace for each table, in which the other
rules keep their counters, their lists and what is left of their quotas, and so does the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.keep.commit import Along
from nfkeep.keep.transaction import transactions
from nfkeep.migrate.live.commands import restore_iptables
from nfkeep.migrate.live.unchanged import Known
from nfkeep.model import Family
from nfkeep.xtables.tables import TABLES, TableHandle, in_use, read

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from nfkeep.keep.passage import TakenOff
    from nfkeep.keep.report import Report
    from nfkeep.keep.transaction import Transactions

Name = tuple[str, Family]
PARKED = '-m comment --comment "nfkeep-migrate: nft has the rules now" -j ACCEPT'
_MARK = b"nfkeep-migrate: "
_COUNTING = '-m comment --comment "nfkeep-migrate: connections are counted again"'
OWN = frozenset({"nfkeep-migrate: nft has the rules now", "nfkeep-migrate: connections are counted again"})
"""The comments of our own rules."""


def limited(tables: Iterable[Name]) -> list[Name]:
    """Those that count connections."""
    found = []
    for table, family in tables:
        with TableHandle(table, family) as handle:
            if handle.has(("connlimit",)):
                found.append((table, family))
    return found


def place(text: str, family: Family) -> None:
    """Load iptables-save text into tables that let everything pass, out of action."""
    restore_iptables("legacy", family, parked_text(text))


def count_again(
    tables: Iterable[Name],
    load: Callable[[], None],
    known: Known | None = None,
    taken_off: TakenOff | None = None,
) -> Report | None:
    """Replace these tables, so that nfkeep has every connection that they limit counted again: by nft's rules too.

    `load` brings those into force, once nobody can open a connection: what opens one passes both rulesets then, also
    those of these tables that were out of action. Raises NfkeepError if they are not the `known` ones any more.
    `taken_off` is told what such packets had raised the counters of iptables by.
    """
    names = list(tables)
    if not names:
        load()
        return None
    known = known or Known({})
    with transactions(*names) as txs:
        known.check(txs)
        txs.along = Along(before=load, after=lambda: known.look(names), taken_off=taken_off)
        for name in names:
            parked = {chain for chain, text in _own_rules(*name) if text == PARKED}
            for chain in _base_chains(name[0]):
                if chain in parked:
                    txs[name].delete(chain, PARKED)
                txs[name].append(chain, _COUNTING)  # rules in front of it keep their numbers, by which they are told
    return txs.report


def park(tables: Collection[Name], known: Known) -> None:
    """Put all of these tables out of action, or none. Raises NfkeepError if the rules are not the `known` ones.

    From then on they are known as they stand still. Connections are not counted again: nft has counted them, and its
    rules would take the opening packets for others.
    """
    names = [name for name in tables if not is_parked(*name)]
    if not names:
        known.look(tables)
        return
    with transactions(*names) as txs:
        known.check(txs)
        known.check_others(tables)
        txs.along = Along(after=lambda: known.look(tables), recount=False)
        for table, family in names:
            for chain in _base_chains(table):
                txs[table, family].insert(chain, PARKED)


def parked_text(text: str) -> str:
    """The same tables, as iptables-save prints them, out of action."""
    lines: list[str] = []
    waiting: list[str] = []
    for line in text.splitlines():
        if line[:1] == "*":
            waiting = [f"[0:0] -A {chain} {PARKED}" for chain in _base_chains(line[1:])]
        elif line[:1] != ":":
            lines += waiting
            waiting = []
        lines.append(line)
    return "\n".join([*lines, ""])


def unpark(
    tables: Iterable[Name], unload: Callable[[], None], edit: Callable[[Transactions], None] = lambda _: None
) -> Report | None:
    """Put all of these tables back into action, or none; what others have added meanwhile stays.

    `edit` changes more in them, right before they are written. `unload` takes nft's rules out of force, before
    connections are counted again: those would count, and refuse, too. What it raises is raised in the end.
    """
    own = {name: _own_rules(*name) for name in tables}
    names = [name for name, rules in own.items() if rules]
    if not names:
        unload()
        return None
    failed: list[NfkeepError] = []

    def unloaded() -> None:
        try:
            unload()
        except NfkeepError as error:
            failed.append(error)

    with transactions(*names) as txs:
        txs.along = Along(before=lambda: edit(txs), after=unloaded)
        for name in names:
            for chain, text in own[name]:
                txs[name].delete(chain, text)
    if failed:
        raise failed[0]
    return txs.report


def empty(tables: Iterable[Name]) -> None:
    """Take everything out of these tables; their policies accept."""
    names = list(tables)
    if not names:
        return
    with transactions(*names, hold=False) as txs:
        for table, family in names:
            txs[table, family].flush()
            for chain in read(table, family).chains.values():
                if chain.policy is None:
                    txs[table, family].delete_chain(chain.name)
                else:
                    txs[table, family].set_policy(chain.name, "ACCEPT")


def is_parked(table: str, family: Family) -> bool:
    """Whether a table is out of action."""
    if table not in in_use(family):
        return False
    return {chain for chain, text in _own_rules(table, family) if text == PARKED} == set(_base_chains(table))


def _own_rules(table: str, family: Family) -> list[tuple[str, str]]:
    with TableHandle(table, family) as handle:
        chains = handle.chains()
        commented = handle.scan(("comment",), jumps=False)
        found = [(chains[at], str(rule)) for at, _, rule in commented if _MARK in rule.entry]
    return [
        (chain, text)
        for chain in _base_chains(table)
        for at, text in found
        if at == chain and text in (PARKED, _COUNTING)
    ]


def _base_chains(table: str) -> list[str]:
    return [hook.name for hook in TABLES[table].hooks]
