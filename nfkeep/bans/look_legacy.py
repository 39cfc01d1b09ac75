"""How ban lists with rules in legacy tables are looked at without a change: those in ipset and those in recent.

See nfkeep.bans.look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nfkeep.bans.discover import Listed
from nfkeep.bans.legacy_rules import LegacyRules
from nfkeep.bans.recent_list import RecentList
from nfkeep.bans.recent_users import users, ways
from nfkeep.bans.values import Element, Fill, Kind, Policy
from nfkeep.errors import InvalidListError, ListGoneError
from nfkeep.ipset import messages
from nfkeep.ipset.growing import GrowingSet
from nfkeep.ipset.sets import Sets
from nfkeep.model import Family


class _Ruled:
    """A list by its rules. `matches`: as of LegacyRules."""

    def __init__(self, name: str, matches: Mapping[Family, Sequence[str]]) -> None:
        self._rules = LegacyRules(name, matches)

    def policy(self) -> Policy | None:
        """As Seen.policy."""
        try:
            return self._rules.policy()
        except InvalidListError:  # somebody has rewritten the comments
            return None


class InIpset(_Ruled):
    """A list in the sets nfkeep-NAME-4, -6, -net4 and -net6."""

    def __init__(self, listed: Listed) -> None:
        names = {kind: f"nfkeep-{listed.name}-{suffix}" for kind, suffix in _SUFFIXES.items()}
        super().__init__(
            listed.name,
            {
                family: [f"-m set --match-set {name} src" for kind, name in names.items() if kind.family is family]
                for family in Family
            },
        )
        self._sets = Sets()
        self._by_kind = {
            kind: GrowingSet(self._sets, name, lambda _: None) for kind, name in names.items() if self._sets.has(name)
        }
        if not self._by_kind:
            self._sets.close()
            raise ListGoneError(listed.name)

    def in_force(self, policy: Policy) -> bool:
        """As Seen.in_force."""
        return len(self._by_kind) == len(_SUFFIXES) and self._rules.in_force()

    def fills(self) -> Iterator[Fill]:
        """As Seen.fills."""
        for each in self._by_kind.values():
            yield Fill(each.name, *each.fill())

    def elements(self, kind: Kind) -> Iterator[Element]:
        """As Seen.elements."""
        members = self._by_kind[kind].members() if kind in self._by_kind else {}
        for identity, (seconds, rest) in members.items():
            if rest and messages.is_exception(rest):
                continue
            address, prefix = messages.address_of(identity)
            mask = b"" if prefix is None else _mask(len(address), prefix)
            yield Element(address + mask, seconds * 1000, seconds * 1000, messages.comment_of(rest) if rest else "")

    def close(self) -> None:
        """As Seen.close."""
        self._sets.close()


class InRecent(_Ruled):
    """A list of xt_recent; one that was flushed away with its rules is empty."""

    def __init__(self, listed: Listed) -> None:
        seconds = int(listed.timeout or 0)
        chosen = ways(listed.name, seconds, users(listed.name), LegacyRules(listed.name, {}).chains)
        super().__init__(listed.name, chosen.matches)
        self._entries: RecentList | None = None
        self._lock = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._entries = RecentList(listed.name, seconds, self._lock)
        except ListGoneError:
            pass
        except BaseException:
            os.close(self._lock)
            raise

    def in_force(self, policy: Policy) -> bool:
        """As Seen.in_force."""
        return self._entries is not None and self._rules.in_force()

    def fills(self) -> Iterable[Fill]:
        """As Seen.fills."""
        if self._entries is not None:
            yield Fill(self._entries.name, self._entries.used(), self._entries.capacity.size)

    def elements(self, kind: Kind) -> Iterable[Element]:
        """As Seen.elements."""
        return () if self._entries is None or kind.is_network else self._entries.elements(kind)

    def close(self) -> None:
        """As Seen.close."""
        if self._entries is not None:
            self._entries.close()
        os.close(self._lock)


_SUFFIXES = {Kind.HOST4: "4", Kind.HOST6: "6", Kind.NET4: "net4", Kind.NET6: "net6"}


def _mask(address_bytes: int, prefix: int) -> bytes:
    bits = address_bytes * 8
    return ((1 << bits) - (1 << bits - prefix)).to_bytes(address_bytes, "big")
