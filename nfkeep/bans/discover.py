"""Which ban lists there are in this network namespace, whatever keeps them and whoever made them.

It only looks: nothing is made or mended, and a backend that this kernel does not have has no lists.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator

import attrs

from nfkeep.bans.values import check_name
from nfkeep.errors import UnsupportedError
from nfkeep.model import Family, Rule


@attrs.frozen(slots=True)
class Listed:
    """A ban list that is there, with or without its rules, and what keeps it: nft, ipset or recent.

    `timeout`: seconds after which every ban of the list ends, as its rules say (recent only); None for no such time.
    """

    name: str
    backend: str
    timeout: float | None = None


def lists() -> tuple[Listed, ...]:
    """All lists by name; those of the same name in the order in which "auto" finds them.

    Raises PermissionDeniedError.
    """
    return tuple(sorted(_each(), key=lambda listed: listed.name))


def find(name: str, backend: str = "auto") -> Listed | None:
    """The list of this name, in one backend or, for "auto", in the first that has it.

    Raises InvalidListError, PermissionDeniedError.
    """
    check_name(name, _LONGEST_NAME)
    return next((each for each in _each() if each.name == name and backend in ("auto", each.backend)), None)


_LONGEST_NAME = 199
_IN_NFT = re.compile(r"ban/([^/]+)")
_IN_IPSET = re.compile(r"nfkeep-(.+)-(?:4|6|net4|net6)")
_TITLE = re.compile(r"nfkeep ban list (\S+): ")
_IPSET_ATTR_SETNAME = 2  # linux/netfilter/ipset/ip_set.h


def _each() -> Iterator[Listed]:
    """Backend by backend, so that who finds what he looks for in the first pays for no other."""
    for name in _in_nft():
        yield Listed(name, "nft")
    in_ipset = _in_ipset()
    for name in in_ipset:
        yield Listed(name, "ipset")
    for name, timeout in _in_recent(in_ipset).items():
        yield Listed(name, "recent", timeout)


def _in_nft() -> list[str]:
    from nfkeep.bans.nft_rules import TABLE
    from nfkeep.nft.batch import BatchSocket
    from nfkeep.nft.lasting import contents

    try:
        asking = BatchSocket()
        try:
            chains = contents(asking, TABLE).chains
        finally:
            asking.close()
    except UnsupportedError:
        return []
    return [match[1] for chain in chains if (match := _IN_NFT.fullmatch(chain))]


def _in_ipset() -> list[str]:
    from nfkeep.ipset import messages
    from nfkeep.ipset.refusals import refusal
    from nfkeep.ipset.sets import Sets

    try:
        sets = Sets()
    except UnsupportedError:
        return []
    try:
        sequence = sets.channel.next(1)
        body = messages.version(sets.protocol) + messages.header_only()  # without the name of a set: of all sets
        question = messages.frame(messages.Command.LIST, messages.NLM_F_DUMP, sequence, body)
        answers = sets.channel.dump(question, sequence)
    finally:
        sets.close()
    if isinstance(answers, int):
        raise refusal(answers, "listing the sets of ipset")
    told = [dict(messages.attributes(answer)).get(_IPSET_ATTR_SETNAME, b"") for answer in answers]
    names = [name.rstrip(b"\0").decode(errors="replace") for name in told]
    return list(dict.fromkeys(match[1] for name in names if (match := _IN_IPSET.fullmatch(name))))


def _in_recent(in_ipset: Collection[str]) -> dict[str, float | None]:
    """The timeout of each list whose rules in the legacy tables ask recent.

    A chain without rules is what a flush has left of a list, of one of recent unless there are sets of its name.
    """
    from nfkeep.bans.legacy_rules import LegacyRules
    from nfkeep.bans.legacy_tables import TABLES
    from nfkeep.xtables.tables import TableHandle, in_use

    prefix = LegacyRules("", {}).chains[0]
    found: dict[str, float | None] = {}
    for family in Family:
        for table in in_use(family):
            if table not in TABLES:
                continue
            with TableHandle(table, family) as handle:
                for chain in handle.chains():
                    if not chain.startswith(prefix):
                        continue
                    rules = [_read(rule) for rule in handle.rules(chain)]
                    for name, timeout in [rule for rule in rules if rule is not None]:
                        found[name] = timeout
                    flushed = chain.removeprefix(prefix)
                    if not rules and "~" not in flushed and flushed not in in_ipset:
                        found.setdefault(flushed, None)
    return found


def _read(rule: Rule) -> tuple[str, float | None] | None:
    """The name of the list that a rule of recent is for, and its timeout; None for another rule."""
    from nfkeep.bans.legacy_tables import comment_of
    from nfkeep.xtables import recent
    from nfkeep.xtables.entry import decode

    matches = {match.name: match.data for match in decode(rule).matches}
    title = _TITLE.match(comment_of(rule))
    if title is None or recent.NAME not in matches:
        return None
    seconds = int.from_bytes(matches[recent.NAME][:4], sys.byteorder)  # struct xt_recent_mtinfo
    return title[1], float(seconds) or None
