"""What is in force on this host now: the rules of iptables, the sets and lists that they look into, tables of nft."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError, NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.keep import quotas
from nfkeep.keep.observe import observe_table
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.live.stamps import ListEntries, read_list
from nfkeep.migrate.recent import DEFAULT_NAME
from nfkeep.migrate.source import read_source, rules_of
from nfkeep.model import Family, Rule
from nfkeep.nft.tables import list_tables
from nfkeep.xtables.jiffies import read_clock
from nfkeep.xtables.tables import TableHandle, in_use, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.source import Source
    from nfkeep.model import Counters, Table

_COMPAT = {Family.IPV4: "iptables-nft-save", Family.IPV6: "ip6tables-nft-save"}
_OTHERS = re.compile(r"^# Table `(\w+)' (?:is incompatible|contains incompatible)", re.MULTILINE)
_SECONDS = 60.0


@attrs.frozen(slots=True)
class Host:
    """A picture of this network namespace.

    `rules`: iptables-save text with counters of the legacy tables that say anything; families without are left out.
    `ipsets`: what `ipset save` prints, "" if no rule looks into a set. `recent`: the lists of the recent match that
    rules name. `nft_tables`: the tables of nft that are there, as (family, name).
    """

    rules: Mapping[Family, str]
    ipsets: str = ""
    recent: Mapping[str, ListEntries] = MappingProxyType({})
    nft_tables: tuple[tuple[str, str], ...] = ()


def read_host() -> Host:
    """Read this network namespace. Raises PermissionDeniedError, UnsupportedError, NfkeepError with a tool's words."""
    with ThreadPoolExecutor(max_workers=1) as pool:  # ipset takes about as long as the tables
        saving = pool.submit(run_tool, ["ipset", "save"]) if _look_into_sets() else None
        rules = {family: text for family in Family if (text := save_text(family))}
        if saving is None and any(map(_says_set, rules.values())):  # since then
            saving = pool.submit(run_tool, ["ipset", "save"])
        ipsets = saving.result() if saving is not None else ""
    return Host(MappingProxyType(rules), ipsets, MappingProxyType(_lists(rules)), tuple(nft_tables()))


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
    return "".join(_table_text(table) for name in in_use(family) if _says_anything(table := read(name, family)))


def managed_by_iptables_nft(host: Host) -> list[str]:
    """The tables that the nft variant of iptables has made, as its own tool names them: "ip filter" and so on."""
    found = []
    for family, command in _COMPAT.items():
        name = "ip6" if family is Family.IPV6 else "ip"
        if not any(each == name for each, _ in host.nft_tables) or shutil.which(command) is None:
            continue
        text = run_tool([command])
        try:
            source = read_source(text, family)
        except InvalidRuleError as error:
            raise NfkeepError(f"{command}: {error}") from None
        others = set(_OTHERS.findall(text))
        found += [
            f"{name} {table.name}"
            for table in source.tables
            if (name, table.name) in host.nft_tables and table.name not in others
        ]
    return found


def run_nft(script: str, *options: str) -> str:
    """Have nft read a script: all of it is done, or nothing. Raises NfkeepError with nft's words."""
    return run_tool(["nft", *options, "-f", "-"], script)


def run_tool(command: Sequence[str], text: str = "") -> str:
    """What a program prints that is given this text. Raises NfkeepError with its words, if it fails."""
    try:
        done = subprocess.run(
            command, input=text.encode(errors="surrogateescape"), capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UnsupportedError(f"there is no command {command[0]} here", command[0]) from None
    except subprocess.TimeoutExpired:
        raise NfkeepError(f"{command[0]} did not end within {_SECONDS:.0f} seconds") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        if "Operation not permitted" in said or "must be root" in said:
            raise PermissionDeniedError(f"running {command[0]}", "root, or the capability CAP_NET_ADMIN")
        raise NfkeepError(f"{command[0]}: {said or f'exit status {done.returncode}'}")
    return done.stdout.decode(errors="surrogateescape")


def _says_anything(table: Table) -> bool:
    return any(chain.rules or chain.policy != "ACCEPT" for chain in table.chains.values())


def _table_text(table: Table) -> str:
    lines = [f"*{table.name}"]
    for chain in table.chains.values():
        counted = _counted(chain.counters) if chain.counters else "[0:0]"
        lines.append(f":{chain.name} {chain.policy or '-'} {counted}")
    whole = _whole_quotas(table)
    for chain in table.chains.values():
        for number, rule in enumerate(chain.rules, 1):
            written = whole.get((chain.name, number), rule)
            lines.append(f"{_counted(rule.counters)} -A {chain.name} {_text(written)}".rstrip())
    return "\n".join([*lines, "COMMIT", ""])


def _text(rule: Rule) -> str:
    """The rule as text. What looks into a set of ipset says its number, and its name is asked for each time."""
    return str(rule) if b"set\0" in rule.entry.lower() else _printed(rule.entry, rule.family)


@functools.lru_cache(maxsize=1 << 16)
def _printed(entry: bytes, family: Family) -> str:
    """The text of an entry: the same rules are read several times in a move."""
    return str(Rule(family, entry))


def _whole_quotas(table: Table) -> Mapping[tuple[str, int], Rule]:
    """Rules in whose quota only a rest stands: with the whole, of which the rule's counter tells what is used up."""
    if not any(b"quota\0" in rule.entry for chain in table.chains.values() for rule in chain.rules):
        return {}
    return quotas.from_the_beginning(observe_table(table.family, table.name))


def _counted(counters: Counters) -> str:
    return f"[{counters.packets}:{counters.bytes}]"


def _says_set(text: str) -> bool:
    return "--match-set" in text or "-j SET" in text


def _look_into_sets() -> bool:
    """Whether a rule of iptables does."""
    for family in Family:
        for name in in_use(family):
            with TableHandle(name, family) as handle:
                if handle.has(("set", "SET")):
                    return True
    return False


def _lists(rules: Mapping[Family, str]) -> dict[str, ListEntries]:
    clock = read_clock()
    used = ((family, text) for family, text in rules.items() if "-m recent" in text)
    names = {name for family, text in used for name, _ in lists_named(source_of(text, family))}
    read = {name: read_list(name, clock) for name in sorted(names)}
    return {name: entries for name, entries in read.items() if entries is not None}


def lists_named(source: Source) -> Iterator[tuple[str, str]]:
    """The lists of the recent match that rules name, and the table of the rule."""
    for table, _, rule in rules_of(source):
        if "recent" not in rule.words:
            continue
        for at, word in enumerate(rule.words[:-1]):
            if word == "-m" and rule.words[at + 1] == "recent":
                behind = rule.words[at + 2 :]
                yield behind[behind.index("--name") + 1] if "--name" in behind else DEFAULT_NAME, table.name


def nft_tables() -> Iterator[tuple[str, str]]:
    """The tables of nft that are there, as (family, name)."""
    for table in list_tables():
        yield table.family, table.name
