"""Which rules, quotas and sets of nft stand for which of iptables: noted when a move is made, asked on the way back.

By then others may have changed either side. A rule of nft is known by its handle, and by what it does: one that takes
its place has its handle. Where its table was loaded anew it is known by its place in a chain whose rules are all the
same. A rule of iptables is known by its words.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep.migrate.live import record
from nfkeep.migrate.live.carried import carried_lists
from nfkeep.migrate.live.host import source_of
from nfkeep.migrate.live.stamps import read_list
from nfkeep.migrate.parts import Statement
from nfkeep.model import Counters, Family
from nfkeep.nft.named import named
from nfkeep.plenty import plenty
from nfkeep.xtables.jiffies import read_clock
from nfkeep.xtables.text import split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nfkeep.migrate.live.counting import Continuation, Where
    from nfkeep.migrate.translation import Translation
    from nfkeep.nft.rule_counters import SeenRule

FILE = "ties.json"
_DIGITS = 16
_QUOTA = re.compile(r'quota name "(.*)"')

Words = tuple[str, ...]
RuleKey = tuple[str, Words, int]
"""A rule's chain, words, and how many with the same words come before it; () as words: the chain's policy."""


@plenty(slots=True)
class Tie:
    """A rule or policy of iptables: its table and key, and of how many with the same words it was one.

    `base`: what it had counted when nft took over. `rules`: table, chain and number, from 0, of what counts for it in
    nft; `quotas`: table and name of those that stand for its own.
    """

    table: str
    key: RuleKey
    among: int
    base: Counters
    rules: tuple[tuple[str, str, int], ...]
    quotas: tuple[tuple[str, str], ...] = ()


@attrs.frozen(slots=True)
class TiedSet:
    """A set of ipset, and the table and name of the one of nft that stands for it; `changing`: rules change it."""

    name: str
    table: str
    nft_name: str
    changing: bool


@attrs.frozen(slots=True)
class MadeTable:
    """A table of nft as it was made: its handle, and by chain handle and digest of its rules.

    `names`: kind and name of what is in it, as `named` has them.
    """

    handle: int
    chains: Mapping[str, tuple[tuple[int, str], ...]]
    names: tuple[tuple[str, str], ...]


@attrs.frozen(slots=True)
class FamilyTies:
    """All that is tied in one family. `lists`: who was in each list of recent when nft took over."""

    family: Family
    tables: Mapping[str, MadeTable]
    rules: tuple[Tie, ...]
    sets: tuple[TiedSet, ...]
    lists: Mapping[str, tuple[str, ...]]


@attrs.frozen(slots=True)
class Ties:
    """All that is tied.

    `since`: nft alone is in force from then on at the earliest, in seconds of the monotonic clock of the boot `boot`.
    `generation`: the number that nft's rules and sets had then, which every change but by rules counts up.
    """

    boot: str
    since: float
    generation: int
    families: tuple[FamilyTies, ...]

    @property
    def same_boot(self) -> bool:
        """Whether the kernel has not been started anew."""
        return self.boot == record.boot()

    def seconds(self) -> float | None:
        """For how long nft alone has been in force, at the most; None if the kernel was started anew since."""
        return time.monotonic() - self.since if self.same_boot else None


def tie(made: Continuation, final: Mapping[Where, Counters]) -> FamilyTies:
    """What is tied in a family whose translation goes on from `final`."""
    family, translation, there = made.family, made.translation, made.there
    chains = {name: by_chain(rules) for name, rules in there.items()}
    places = {
        name: {rule.handle: at for some in each.values() for at, rule in enumerate(some)}
        for name, each in chains.items()
    }
    quotas, none = own_quotas(translation), Counters()
    rules = []
    for table in source_of(made.text, family).tables:
        for chain in table.chains:
            keys = rule_keys(chain.name, (each.words for each in chain.rules), policy=chain.policy is not None)
            lines = [*(each.line for each in chain.rules), chain.line]
            for at, (key, among) in enumerate(keys):
                where = table.name, chain.name, at
                if found := made.counting.get(where):
                    tied = tuple([(r.table, r.chain, places[r.table][r.handle]) for _, r in found])
                    base = final.get(where, none)
                    rules.append(Tie(table.name, key, among, base, tied, tuple(quotas.get(lines[at], ()))))
    names: dict[str, list[tuple[str, str]]] = {}
    for table_name, kind, own in named(made.opened, family.value):
        names.setdefault(table_name, []).append((kind, own))
    made_tables = {
        name: MadeTable(
            made.handles[name],
            {chain: tuple([(each.handle, digest(each)) for each in some]) for chain, some in listed.items()},
            tuple(names.get(name, ())),
        )
        for name, listed in chains.items()
    }
    clock = read_clock()
    lists = {name: tuple(read_list(name, clock) or ()) for name, _, _ in carried_lists(made.text, family)}
    return FamilyTies(family, made_tables, tuple(rules), tuple(_sets(translation)), lists)


def rule_keys(chain: str, rules: Iterable[Sequence[str]], *, policy: bool) -> list[tuple[RuleKey, int]]:
    """The key of each rule of a chain, and among how many of the same words it is; the policy's comes last."""
    words = [without_figures(each) for each in rules]
    if policy:
        words.append(())
    among: dict[Words, int] = {}
    nth = []
    for each in words:
        nth.append(among.get(each, 0))
        among[each] = nth[-1] + 1
    return [((chain, each, number), among[each]) for each, number in zip(words, nth, strict=True)]


def without_figures(words: Sequence[str]) -> Words:
    """A rule's words without the figures of its quotas, which every replace of ours writes anew."""
    if "--quota" not in words:
        return tuple(words)
    return tuple("" if at and words[at - 1] == "--quota" else word for at, word in enumerate(words))


def words_of(text: str) -> Words:
    """The words of a rule's text."""
    return tuple(split(text)) if text else ()


def by_chain(rules: Iterable[SeenRule]) -> dict[str, list[SeenRule]]:
    """The rules of a table by chain, in order."""
    found: dict[str, list[SeenRule]] = {}
    for rule in rules:
        found.setdefault(rule.chain, []).append(rule)
    return found


def digest(rule: SeenRule) -> str:
    """What tells a rule from others that do something else, whatever it has counted."""
    return hashlib.sha256(rule.meaning).hexdigest()[:_DIGITS]


def save(ties: Ties) -> None:
    """Put it on the disk, beside the record."""
    content = {
        "boot": ties.boot,
        "since": ties.since,
        "generation": ties.generation,
        "families": list(map(_written, ties.families)),
    }
    record.keep(FILE, json.dumps(content, separators=(",", ":"), check_circular=False))


def load() -> Ties | None:
    """What was put there; None if nothing was, or it cannot be read."""
    text = record.kept(FILE)
    try:
        found = json.loads(text) if text else None
        return (
            None
            if found is None
            else Ties(found["boot"], found["since"], found["generation"], tuple(map(_family, found["families"])))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _written(tied: FamilyTies) -> dict[str, Any]:
    return {
        "family": tied.family.name,
        "tables": {name: attrs.asdict(each, recurse=False) for name, each in tied.tables.items()},
        "rules": [
            (each.table, each.key, each.among, each.base.packets, each.base.bytes, each.rules, each.quotas)
            for each in tied.rules
        ],
        "sets": [attrs.asdict(each) for each in tied.sets],
        "lists": dict(tied.lists),
    }


def _family(found: Any) -> FamilyTies:
    made = {
        name: MadeTable(
            each["handle"],
            {chain: tuple(map(tuple, rules)) for chain, rules in each["chains"].items()},
            tuple(map(tuple, each["names"])),
        )
        for name, each in found["tables"].items()
    }
    return FamilyTies(
        Family[found["family"]],
        made,
        tuple(
            Tie(
                table,
                (chain, tuple(words), number),
                among,
                Counters(packets, octets),
                tuple(map(tuple, rules)),
                tuple(map(tuple, quotas)),
            )
            for table, (chain, words, number), among, packets, octets, rules, quotas in found["rules"]
        ),
        tuple(TiedSet(**each) for each in found["sets"]),
        {name: tuple(addresses) for name, addresses in found["lists"].items()},
    )


def own_quotas(translation: Translation) -> dict[int, list[tuple[str, str]]]:
    """Table and name of the quotas of nft that stand for those of each line of the source, in its order."""
    found: dict[int, list[tuple[str, str]]] = {}
    for table in translation.tables:
        if not any(each.kind == "quota" for each in table.declarations):
            continue
        for chain in table.chains:
            for line in chain.lines:
                for part in line.parts:
                    if not isinstance(part, Statement) or not (named := _QUOTA.fullmatch(part.text)):
                        continue
                    if (table.name, named[1]) not in found.setdefault(line.source, []):
                        found[line.source].append((table.name, named[1]))
    return found


def _sets(translation: Translation) -> Iterator[TiedSet]:
    for table in translation.tables:
        for each in table.declarations:
            if each.members is not None and not each.members.nomatch:
                yield TiedSet(each.members.ipset, table.name, each.name, each.members.changing)
