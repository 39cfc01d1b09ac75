"""What lists of the recent match hold, as elements of the sets that stand for them: text for the end of the script."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nfkeep.migrate.live.host import lists_named, source_of
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.placement import place_tables
from nfkeep.migrate.recent import DEFAULT_NAME, Asked, RecentList
from nfkeep.migrate.survey import Survey
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nfkeep.migrate.live.stamps import ListEntries

_AT_ONCE = 1000


def carried_lists(text: str, family: Family) -> Iterator[tuple[str, str, RecentList]]:
    """The lists that rules of this text name: the name, the nft table in which its sets are, and those sets."""
    if "recent" not in text:
        return
    source = source_of(text, family)
    survey = Survey(source)
    tables = {table.name: place.name for place in place_tables(source) for table in place.tables}
    for name, of in dict(lists_named(source)).items():
        uses = []
        for match in survey.matches("recent", "--name", name, DEFAULT_NAME):
            with contextlib.suppress(Lost, ValueError):
                uses.append(Asked.of(match))
        with contextlib.suppress(Lost):  # the plan tells of that
            if uses:
                yield name, tables[of], RecentList.of(name, "", uses)


def elements(text: str, family: Family, lists: Mapping[str, ListEntries]) -> str:
    """`add element` commands for all addresses of this family in the lists."""
    ip = "ip6" if family is Family.IPV6 else "ip"
    commands = []
    for name, table, sets in carried_lists(text, family):
        members: dict[str, list[str]] = {}
        for address, ages in lists.get(name, {}).items():
            if (":" in address) != (family is Family.IPV6):
                continue
            for set_name, timeout, rest in sets.places(ages):
                timed = f" timeout {timeout}s expires {max(1, round(rest * 1000))}ms" if timeout else ""
                members.setdefault(set_name, []).append(f"{address}{timed}")
        for set_name, found in members.items():
            for at in range(0, len(found), _AT_ONCE):
                some = ", ".join(found[at : at + _AT_ONCE])
                commands.append(f"add element {ip} {table} {set_name} {{ {some} }}\n")
    return "".join(commands)
