"""The rules of iptables from the disk: the kernel has none after a move was confirmed, or somebody has emptied them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from nfkeep.errors import UnsupportedError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live import parking, record
from nfkeep.migrate.live.commands import restore_iptables, run_tool
from nfkeep.migrate.live.host import save_text, source_of
from nfkeep.migrate.live.iptables_nft import lines_of, read_rules
from nfkeep.migrate.live.record import APPLIED
from nfkeep.migrate.live.returned_sets import made_again
from nfkeep.migrate.live.ties import without_figures
from nfkeep.migrate.source import rules_of
from nfkeep.model import Family
from nfkeep.nft.table_list import table_handles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nfkeep.migrate.live.record import Record
    from nfkeep.migrate.source import SourceTable

_GONE = "somebody has emptied it, or put other rules in: loaded as it was before the move"


def kept_rules() -> dict[Family, str]:
    """What the tables were before the move, as iptables-save text by family."""
    return {family: text for family, name in record.FILES.items() if (text := record.kept(name))}


def reload(done: Record, texts: Mapping[Family, str], *, parked: bool) -> list[Outcome]:
    """Load these tables, and the sets that they look into where these were destroyed.

    `parked`: out of action, as nft's are in force. Without that every connection is counted again, and quotas begin
    anew. What others have put into these tables since goes, and is told. Raises NfkeepError.
    """
    sets = made_again(record.kept(record.IPSETS), time.time() - done.steps[0][0])
    if sets:
        run_tool(["ipset", "-exist", "restore"], sets)
    outcomes: list[Outcome] = []
    for family, text in texts.items():
        outcomes += [*replaced(text, family), *_emptied(text, family)]
        restore_iptables("legacy", family, parking.parked_text(text) if parked else text)
    if not parked:
        names = [(table.name, family) for family, text in texts.items() for table in source_of(text, family).tables]
        parking.count_again(parking.limited(names), lambda: None)
    return outcomes


def gone(done: Record) -> tuple[dict[Family, str], list[Outcome]]:
    """The tables that are to be loaded because they are not there any more as they were put out of action.

    Text by family, and what is to be told. A table that has only lost rules behind the one that puts it out of action
    is as somebody wants it; after another boot, so is every table that says anything.
    """
    texts, outcomes = {}, []
    for family, text in kept_rules().items():
        lines, found = text.splitlines(keepends=True), []
        now = {table.name: table for table in source_of(save_text(family), family).tables}
        elsewhere = _in_iptables_nft(done, family)
        for table in source_of(text, family).tables:
            name = table.name, family
            if (
                name not in done.legacy
                or table.name in elsewhere
                or not _is_gone(done, table, now.get(table.name), family)
            ):
                continue
            found.append(lines_of(table, lines))
            outcomes.append(Outcome("table", f"{family} {table.name}", Fidelity.APPROXIMATED, _GONE))
        if found:
            texts[family] = "".join(found)
    return texts, outcomes


def _in_iptables_nft(done: Record, family: Family) -> set[str]:
    """The tables that a boot script has loaded there."""
    if done.boot == record.boot():
        return set()
    text, _ = read_rules(family, table_handles())
    return {table.name for table in source_of(text, family).tables}


def _is_gone(done: Record, before: SourceTable, now: SourceTable | None, family: Family) -> bool:
    if now is None:  # it says nothing
        return True
    name = now.name, family
    if done.state != APPLIED or done.boot != record.boot() or parking.is_parked(*name):
        return False
    return name not in done.copies and bool(_content(before) - _content(now))  # of a copy the words are others


def _content(table: SourceTable) -> Counter[tuple[object, ...]]:
    """Rules and policies, without what they have counted."""
    rules = [(chain.name, without_figures(rule.words)) for chain in table.chains for rule in chain.rules]
    return Counter([*rules, *((chain.name, chain.policy) for chain in table.chains if chain.policy)])


def require_tools(done: Record) -> None:
    """Raise UnsupportedError where nobody could load these tables again."""
    import shutil  # which loads compressors

    for family in dict.fromkeys(family for _, family in done.legacy):
        command = "ip6tables-legacy-restore" if family is Family.IPV6 else "iptables-legacy-restore"
        if shutil.which(command) is None:
            raise UnsupportedError(f"there is no command {command} here, which a rollback would need then", command)


def _emptied(text: str, family: Family) -> Iterator[Outcome]:
    """The tables of the hashlimit match, which went with their last rule: nobody can write into one."""
    words = (rule.words for _, _, rule in rules_of(source_of(text, family)))
    names = (each[each.index("--hashlimit-name") + 1] for each in words if "--hashlimit-name" in each)
    for name in dict.fromkeys(names):
        yield Outcome(
            "hashlimit", f"{family} {name}", Fidelity.LOST, "its rules were gone, so that every key begins full"
        )


def replaced(text: str, family: Family) -> Iterator[Outcome]:
    """What others have put into these tables since: rules that are not in the text."""
    known = {table.name for table in source_of(text, family).tables}
    own = {(table.name, chain.name, rule.words) for table, chain, rule in rules_of(source_of(text, family))}
    for table, chain, rule in rules_of(source_of(save_text(family), family)):
        ours = any(each in rule.text for each in parking.OWN)
        if table.name in known and not ours and (table.name, chain.name, rule.words) not in own:
            where = f"{family} {table.name} {chain.name}"
            yield Outcome("rule", where, Fidelity.LOST, f"added to iptables after the move: {' '.join(rule.words)}")
