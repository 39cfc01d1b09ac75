"""`-m set`: look the packet up in a set of ipset (ip_set_test() in ip_set_core.c); here a set of nft's.

The set's elements come from the text of ipset save. A list of sets is looked up member by member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.ipset_nft import declare, ways
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, AnyOf, NoneOf, Test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--match-set": 2, "--return-nomatch": 0, "--update-counters": 0, "--update-subcounters": 0, "--packets-eq": 1,
    "--packets-lt": 1, "--packets-gt": 1, "--bytes-eq": 1, "--bytes-lt": 1, "--bytes-gt": 1,
}  # fmt: skip
_ALWAYS_THERE = ("ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "meta mark", "iifname", "oifname")


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test, or one for each kind of protocol and each member."""
    option = match.option("--match-set")
    if option is None:
        raise Lost("it names no set")
    if any(each.name.startswith(("--packets", "--bytes")) for each in match.options):
        raise Lost("nft cannot compare the counter of an element with a number")
    ipset = known_set(option.values[0], context)
    silent = match.option("--update-counters", "--update-subcounters")
    if silent and silent.negated and "counters" in ipset.options:
        context.approximate(match, "nft counts every packet that it finds in a set with counters")
    found = _looked_up(
        ipset, option.values[1].split(","), context, nomatch=match.option("--return-nomatch") is not None
    )
    if not option.negated:
        return (AnyOf(tuple(found)),) if found else (NEVER,)
    if len(found) == 1 and len(found[0]) == 1:
        test = found[0][0]
        assert isinstance(test, Test), "a look-up is one"
        if all(field.partition(" & ")[0] in _ALWAYS_THERE for field in test.left.split(" . ")):
            return (Test(test.left, test.values, negated=True),)
    return (NoneOf(tuple(found)),)


def known_set(name: str, context: Context) -> IpSet:
    """The set of this name. Raises Lost where the text of ipset save has none."""
    ipset = context.survey.ipsets.get(name)
    if ipset is None:
        raise Lost(f"the set {name} is not known", "give what ipset save prints")
    if not ipset.kind:
        raise Lost(f"the set {name} has elements, but no create line", "give all that ipset save prints")
    return ipset


def _looked_up(ipset: IpSet, sides: Sequence[str], context: Context, *, nomatch: bool) -> list[tuple[Simple, ...]]:
    if ipset.kind == "list:set":
        if any(element.timeout for element in ipset.elements):
            raise Lost(f"members of the list {ipset.name} expire", "write the rule for each member")
        members = [known_set(name, context) for name in ipset.members]
        return [way for member in members for way in _looked_up(member, sides, context, nomatch=nomatch)]
    found = ways(ipset, sides, context)
    if not found:
        return []
    name = declare(ipset, context, nomatch=nomatch and "net" in ipset.fields)
    return [(*tests, Test(key, (f"@{name}",))) for tests, key in found]
