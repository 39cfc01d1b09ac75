"""Which nft table each table of iptables becomes, and where its base chains hook in.

Tables that share named state (a list of recent, say) become one table: nft's sets belong to a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.names import identifier
from nfkeep.migrate.source import Source, SourceChain, SourceTable, rules_of
from nfkeep.xtables.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

SHARED_TABLE = "iptables"
"""The name of the table that stands for several of iptables'."""

_HOOKS = {name: name.lower() for name in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")}
_NAT_PRIORITIES = {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}  # NF_IP_PRI_NAT_DST, _SRC

# Options that name state which all tables of a family share, by the extension that has them.
_NAMING = {
    "recent": ("--name",), "hashlimit": ("--hashlimit-name",), "set": ("--match-set",), "nfacct": ("--nfacct-name",),
    "SET": ("--add-set", "--del-set", "--map-set"), "rateest": ("--rateest", "--rateest1", "--rateest2"),
    "RATEEST": ("--rateest-name",), "IDLETIMER": ("--label",),
}  # fmt: skip
_UNNAMED = {"recent": "DEFAULT"}


@attrs.frozen(slots=True)
class Place:
    """An nft table and the tables of iptables that go there."""

    name: str
    tables: tuple[SourceTable, ...]

    def chain_name(self, table: SourceTable, chain: SourceChain) -> str:
        """What a chain is called there."""
        return identifier(chain.name if len(self.tables) == 1 else f"{table.name}-{chain.name}")


def place_tables(source: Source, members: Mapping[str, tuple[str, ...]] | None = None) -> tuple[Place, ...]:
    """The tables of the script, in the order of the source. `members` are those of ipset's lists of sets."""
    users: dict[tuple[str, str], set[str]] = {}
    for table, _, rule in rules_of(source):
        for kind, name in _named_state(rule.words):
            for each in (name, *((members or {}).get(name, ()) if kind == "set" else ())):
                users.setdefault((kind, each), set()).add(table.name)
    sharing = {table for tables in users.values() if len(tables) > 1 for table in tables}
    places, together = [], tuple(table for table in source.tables if table.name in sharing)
    for table in source.tables:
        if table.name not in sharing:
            places.append(Place(table.name, (table,)))
        elif table is together[0]:
            places.append(Place(SHARED_TABLE, together))
    return tuple(places)


def base_line(table: SourceTable, chain: SourceChain) -> str:
    """The line that makes a chain a base chain."""
    kind = "nat" if table.name == "nat" else "filter"
    if (table.name, chain.name) == ("mangle", "OUTPUT"):
        kind = "route"
    priority = _NAT_PRIORITIES[chain.name] if table.name == "nat" else TABLES[table.name].priority
    policy = "drop" if chain.policy == "DROP" else "accept"
    return f"type {kind} hook {_HOOKS[chain.name]} priority {priority}; policy {policy};"


def tracked_line(chain: SourceChain) -> str:
    """The line of the chain that goes with one of raw's, right behind conntrack (NF_IP_PRI_CONNTRACK is -200)."""
    return f"type filter hook {_HOOKS[chain.name]} priority -199; policy accept;"


def _named_state(words: tuple[str, ...]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    if _NAMING.keys().isdisjoint(words):
        return found
    for at, word in enumerate(words[:-1]):
        if word not in ("-m", "-j") or (options := _NAMING.get(words[at + 1])) is None:
            continue
        kind = words[at + 1].lower()
        behind = words[at + 2 :]
        named = [behind[n + 1] for n, option in enumerate(behind[:-1]) if option in options]
        found.update((kind, name) for name in named or [_UNNAMED.get(words[at + 1], "")] if name)
    return found
