"""What is in force on this host now: the rules of iptables, the sets and lists that they look into, tables of nft."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.live import collection, iptables_nft, record
from nfkeep.migrate.live.commands import Running
from nfkeep.migrate.live.owners import BOOT_FILES
from nfkeep.migrate.live.stamps import ListEntries, read_list
from nfkeep.migrate.source import read_source, rules_of
from nfkeep.model import Family
from nfkeep.nft.table_list import table_handles
from nfkeep.xtables.jiffies import read_clock
from nfkeep.xtables.tables import TableHandle, in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.source import Source
    from nfkeep.xtables.image import Image

_IPSET_SAVE = ("ipset", "save")


@attrs.frozen(slots=True)
class Host:
    """A picture of this network namespace.

    `rules`: iptables-save text with counters of the tables that say anything; families without are left out.
    `ipsets`: what `ipset save` prints, "" if no rule looks into a set. `recent`: the lists of the recent match that
    rules name. `nft_tables`: the tables of nft that are there, as (family, name), and their handles.
    `iptables_nft`: those among them that the nft variant of iptables has made. `compat`: the families whose rules are
    in these, and not in legacy tables; `twice`: those that have rules in both, of which `rules` has the legacy ones.
    `boot_files`: what loads rules of iptables when the host boots; none in a namespace of its own. `moved`: the tables
    of nft that an earlier move has made, which was confirmed. `images`: the legacy tables that are there, by name and
    family, as the kernel has them.
    """

    rules: Mapping[Family, str]
    ipsets: str = ""
    recent: Mapping[str, ListEntries] = MappingProxyType({})
    nft_tables: Mapping[tuple[str, str], int] = MappingProxyType({})
    iptables_nft: tuple[tuple[str, str], ...] = ()
    compat: tuple[Family, ...] = ()
    twice: tuple[Family, ...] = ()
    boot_files: tuple[str, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    images: Mapping[tuple[str, Family], Image] = MappingProxyType({})


@collection.put_off()
def read_host(*, meanwhile: Callable[[Mapping[Family, str]], object] | None = None) -> Host:
    """Read this network namespace. Raises PermissionDeniedError, UnsupportedError, NfkeepError with a tool's words.

    `meanwhile` is called with the rules, while ipset prints its sets if they look into any; else they are taken apart
    then, for `source_of`.
    """
    with contextlib.ExitStack() as stack:
        tables = {family: _opened(family, stack) for family in Family}
        looked_into = any(handle.has(("set", "SET")) for handles in tables.values() for handle in handles)
        # ipset takes about as long as the rest
        saving = stack.enter_context(Running(_IPSET_SAVE)) if looked_into else None
        images = {(each.name, each.family): each.image() for some in tables.values() for each in some}
        legacy = {family: text for family, handles in tables.items() if (text := _saved(handles))}
        there = table_handles()
        earlier = record.load()
        ours = record.own_tables(earlier, there)
        made = {family: iptables_nft.read_rules(family, there.keys() - ours) for family in Family}
        compat = {family: text for family, (text, _) in made.items() if text}
        rules = {family: each[family] for family in Family for each in (compat, legacy) if family in each}
        if saving is None and any(map(_says_set, rules.values())):
            saving = stack.enter_context(Running(_IPSET_SAVE))
        if meanwhile is not None:
            meanwhile(rules)
        elif saving is not None and not saving.has_ended():
            read_ahead(rules)
        ipsets = saving.result() if saving is not None else ""
    return Host(
        MappingProxyType(rules),
        ipsets,
        MappingProxyType(_lists(rules)),
        there,
        tuple(each for _, tables in made.values() for each in tables),
        tuple(compat.keys() - legacy.keys()),
        tuple(compat.keys() & legacy.keys()),
        tuple(map(str, filter(Path.exists, BOOT_FILES))) if record.folder().name == record.HOST else (),
        tuple(sorted(ours)) if earlier is not None and earlier.state == record.CONFIRMED else (),
        MappingProxyType(images),
    )


@functools.lru_cache(maxsize=4)
def source_of(text: str, family: Family) -> Source:
    """The same as `read_source`, which several want to know of the same host's rules."""
    return read_source(text, family)


@functools.lru_cache(maxsize=2)
def sets_of(text: str) -> Mapping[str, IpSet]:
    """The same as `read_ipsets`."""
    return read_ipsets(text)


def save_text(family: Family) -> str:
    """The legacy tables of a family as `iptables-save -c` prints them, but for those that let everything pass."""
    with contextlib.ExitStack() as stack:
        return _saved(_opened(family, stack))


def _opened(family: Family, stack: contextlib.ExitStack) -> list[TableHandle]:
    return [stack.enter_context(TableHandle(name, family)) for name in in_use(family)]


def _saved(handles: Iterable[TableHandle]) -> str:
    found = []
    for handle in handles:
        if says_anything(handle):
            _have_whole_quotas(handle)
            found.append(handle.save())
    return "".join(found)


def says_anything(handle: TableHandle) -> bool:
    """Whether a table does more than let everything pass."""
    for chain in handle.chains():
        policy = handle.policy(chain)
        if policy is None or policy[0] != "ACCEPT" or next(handle.rules(chain), None) is not None:
            return True
    return False


def _have_whole_quotas(handle: TableHandle) -> None:
    """Have the whole in the quotas in which only a rest stands: the rule's counter tells what of it is used up."""
    if handle.has(("quota",)):
        from nfkeep.keep import quotas
        from nfkeep.keep.observe import observe_table

        for (chain, number), rule in quotas.from_the_beginning(observe_table(handle.family, handle.name)).items():
            handle.rewrite(chain, number, rule)


def _says_set(text: str) -> bool:
    return "--match-set" in text or "-j SET" in text


def read_ahead(rules: Mapping[Family, str]) -> None:
    """Have ready what `source_of` will be asked for."""
    with contextlib.suppress(InvalidRuleError):  # for those who ask
        for family, text in rules.items():
            source_of(text, family)


def _lists(rules: Mapping[Family, str]) -> dict[str, ListEntries]:
    clock = read_clock()
    used = ((family, text) for family, text in rules.items() if "-m recent" in text)
    names = {name for family, text in used for name, _ in lists_named(source_of(text, family))}
    read = {name: read_list(name, clock) for name in sorted(names)}
    return {name: entries for name, entries in read.items() if entries is not None}


def lists_named(source: Source) -> Iterator[tuple[str, str]]:
    """The lists of the recent match that rules name, and the table of the rule."""
    from nfkeep.migrate.recent import DEFAULT_NAME  # behind the start of ipset, which this would put off

    for table, _, rule in rules_of(source):
        if "recent" not in rule.words:
            continue
        for at, word in enumerate(rule.words[:-1]):
            if word == "-m" and rule.words[at + 1] == "recent":
                behind = rule.words[at + 2 :]
                yield behind[behind.index("--name") + 1] if "--name" in behind else DEFAULT_NAME, table.name
