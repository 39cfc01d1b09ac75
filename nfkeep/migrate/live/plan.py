"""What the move of this host would do: the script, what is not exact in it, what becomes of each state, who else edits.

Pure but for `check`, which has nft look at the script.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity, Outcome
from nfkeep.migrate.live import collection, parking
from nfkeep.migrate.live.carried import carried_lists, elements
from nfkeep.migrate.live.commands import run_nft
from nfkeep.migrate.live.host import sets_of, source_of
from nfkeep.migrate.live.iptables_nft import refused_by_legacy
from nfkeep.migrate.live.owners import Owner, find
from nfkeep.migrate.live.tokens import keys_of
from nfkeep.migrate.live.used_quotas import counts_all
from nfkeep.migrate.script import script_text
from nfkeep.migrate.translation import Translation, translate_source
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nfkeep.migrate.live.host import Host
    from nfkeep.migrate.live.tokens import Keys
    from nfkeep.migrate.script import NftTable
    from nfkeep.migrate.source import SourceRule

ON_THE_WAY = "a packet that passes in the milliseconds of the change may be missing"
_EXACTLY = "exact but for packets of the very moment: `apply` tells if some may be missing"
_WHERE_IT_IS = "goes on where the rule's byte counter is"
_FULL_AGAIN = "how much is used up cannot be read: it begins full, so that one burst more passes at most"
_STATES = MappingProxyType(
    {
        "connlimit": (Fidelity.RESTORED, "every connection is counted again"),
        "limit": (Fidelity.APPROXIMATED, _FULL_AGAIN),
        "quota": (Fidelity.APPROXIMATED, f"{_WHERE_IT_IS}; {ON_THE_WAY}"),
        "statistic": (Fidelity.APPROXIMATED, "where it is in its turns cannot be read: it begins anew"),
        "nfacct": (Fidelity.LOST, "the counter in nft begins at zero; `nfacct list` goes on showing the old one"),
        "rateest": (Fidelity.LOST, "nft has no estimators"),
    }
)
_TWICE = "while both are in force, for well under a second, a packet {}"
_DOING = MappingProxyType(
    {
        "LOG": "is logged twice",
        "NFLOG": "is logged twice",
        "TEE": "is sent on twice",
        "TTL": "has its TTL changed twice",
        "HL": "has its hop limit changed twice",
    }
)
_NOTED = frozenset({*_STATES, *_DOING})
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")


@attrs.frozen(slots=True)
class Plan:
    """The move of a host, before anything is changed.

    `translations`: by family. `outcomes`: what each state will be worth. `owners`: programs that go on
    writing these rules. `obstacles`: why `apply` would refuse. `keys`: tables of hashlimit.
    """

    host: Host
    translations: Mapping[Family, Translation]
    outcomes: tuple[Outcome, ...]
    owners: tuple[Owner, ...]
    obstacles: tuple[str, ...] = ()
    keys: tuple[Keys, ...] = ()

    @property
    def script(self) -> str:
        """Everything, for one transaction of nft; "" if there is nothing to move."""
        if not self.translations:
            return ""
        gone = "".join(f"delete table {family} {name}\n" for family, name in self.host.iptables_nft)
        return gone + "".join(
            translation.script + elements(self.host.rules[family], family, self.host.recent)
            for family, translation in self.translations.items()
        )

    @property
    def without_members(self) -> str:
        """The script for people who have the sets of ipset beside it."""
        return script_text(self.whole_tables, ["Without the elements of sets, which are in ipset.save"], members=False)

    @property
    def listed(self) -> str:
        """The end of the script: what goes into sets that packets add to."""
        return "".join(elements(text, family, self.host.recent) for family, text in self.host.rules.items())

    @property
    def tables(self) -> tuple[tuple[str, str], ...]:
        """The tables of nft that the script makes, as (family, name)."""
        return tuple((table.family, table.name) for table in self.whole_tables)

    @property
    def whole_tables(self) -> list[NftTable]:
        """These tables, with all that is in them but the elements that packets have added."""
        return [table for each in self.translations.values() for table in each.tables]

    @property
    def lost(self) -> bool:
        """Whether some rule cannot be expressed."""
        return bool(self.lost_rules)

    @property
    def lost_rules(self) -> set[str]:
        """The rules that cannot be expressed, without what they have counted."""
        found = ((family, loss) for family, each in self.translations.items() for loss in each.losses)
        lost = ((family, loss.rule or loss.part) for family, loss in found if loss.fidelity is Fidelity.LOST)
        return {f"{family} {_COUNTERS.sub('', rule)}" for family, rule in lost}

    def to_json(self) -> str:
        """The plan as one JSON object: {"script", "losses", "states", "owners", "obstacles"}."""
        return json.dumps(
            {
                "script": self.script,
                "losses": [_loss(family, loss) for family, each in self.translations.items() for loss in each.losses],
                "states": [
                    {"kind": o.kind, "where": o.where, "fidelity": o.fidelity.value, "detail": o.detail}
                    for o in self.outcomes
                ],
                "owners": [attrs.asdict(each) for each in self.owners],
                "obstacles": list(self.obstacles),
            },
            indent=2,
        )


@collection.put_off()
def make_plan(host: Host, *, look: bool = True, try_out: bool = True) -> Plan:
    """The plan for a host that was read; with `look`, also what is in its way.

    With `try_out` nft looks at the script for that; else whoever loads it finds out. Raises InvalidRuleError for rules
    that cannot be read.
    """
    sets = sets_of(host.ipsets)
    translations = {family: translate_source(source_of(text, family), sets) for family, text in host.rules.items()}
    keys = tuple(each for of, text in host.rules.items() for each in keys_of(text, of, translations[of]))
    owned = owners(host.rules, host.boot_files)
    plan = Plan(host, MappingProxyType(translations), tuple(outcomes(host, keys)), owned, keys=keys)
    return attrs.evolve(plan, obstacles=tuple(_obstacles(plan, try_out=try_out))) if look else plan


def owners(rules: Mapping[Family, str], boot_files: Iterable[str] = ()) -> tuple[Owner, ...]:
    """The programs that chains in these rules, as iptables-save prints them, belong to, and what loads these files."""
    chains = [c.name for family, text in rules.items() for t in source_of(text, family).tables for c in t.chains]
    return tuple(find(chains, boot_files))


def _obstacles(plan: Plan, *, try_out: bool) -> Iterator[str]:
    host = plan.host
    if not host.rules:
        yield "there are no rules of iptables here that say anything"
    if any(comment in text for text in host.rules.values() for comment in parking.OWN):
        yield "rules of iptables are out of action since a move: call `nfkeep-migrate rollback` first"
    for family in host.twice:
        yield f"there are {family} rules of both legacy iptables and iptables-nft: bring them together in one of them"
    for family in host.compat:
        if said := refused_by_legacy([table.name for table in source_of(host.rules[family], family).tables], family):
            yield f"rules of iptables-nft go by way of legacy tables, which this host does not have: {said}"
    if host.moved:
        names = ", ".join(" ".join(each) for each in host.moved)
        yield (
            f"an earlier move was confirmed, and nft has its tables ({names}): `nfkeep-migrate rollback` puts them back"
            " into iptables, from where all can be moved together"
        )
    for each in plan.tables:
        if each in host.nft_tables and each not in (*host.iptables_nft, *host.moved):
            yield f"nft has a table {' '.join(each)} already, which the script would replace"
    if host.rules and try_out:
        try:
            run_nft(plan.script, "-c")
        except NfkeepError as error:
            yield f"this host's nft does not take the script: {error}"


def outcomes(host: Host, keys: Iterable[Keys]) -> Iterator[Outcome]:
    """What each state of a host will be worth; `keys`: its tables of hashlimit."""
    for family, text in host.rules.items():
        yield from _outcomes(host, text, family)
    yield from (each.planned() for each in keys)


def _outcomes(host: Host, text: str, family: Family) -> Iterator[Outcome]:
    how = (Fidelity.APPROXIMATED, ON_THE_WAY) if family in host.compat else (Fidelity.RESTORED, _EXACTLY)
    yield Outcome("counters", f"{family}, all rules and policies", *how)
    carried = {name for name, _, _ in carried_lists(text, family)}
    for name in sorted(carried & host.recent.keys()):
        yield _list(name, family, sum((":" in each) == (family is Family.IPV6) for each in host.recent[name]))
    for table in source_of(text, family).tables:
        for chain in table.chains:
            for number, rule in enumerate(chain.rules, 1):
                if not _NOTED.isdisjoint(rule.words):
                    where = f"{family} {table.name} {chain.name} rule {number}"
                    yield from _noted(rule, where, legacy=family not in host.compat)


def _noted(rule: SourceRule, where: str, *, legacy: bool) -> Iterator[Outcome]:
    for word, kind in zip(rule.words, rule.words[1:], strict=False):
        if word == "-m" and kind == "quota" and legacy and counts_all(rule.words):
            yield Outcome(kind, where, Fidelity.RESTORED, f"{_WHERE_IT_IS}, {_EXACTLY}")
        elif word == "-m" and kind in _STATES:
            yield Outcome(kind, where, *_STATES[kind])
        if word == "-j" and kind in _DOING and not {"--ttl-set", "--hl-set"} & set(rule.words):
            yield Outcome(kind, where, Fidelity.APPROXIMATED, _TWICE.format(_DOING[kind]))


def _list(name: str, family: Family, addresses: int) -> Outcome:
    detail = f"{addresses} addresses, each with the time that it has left"
    return Outcome("recent", f"{family}, list {name}", Fidelity.RESTORED, detail)


def _loss(family: Family, loss: Any) -> dict[str, Any]:
    return {
        "family": str(family),
        "rule": loss.rule,
        "part": loss.part,
        "fidelity": loss.fidelity.value,
        "reason": loss.reason,
        "advice": loss.advice,
    }
