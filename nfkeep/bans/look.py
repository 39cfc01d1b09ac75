"""One ban list as it is now: what it does, whether it is in force, how full it is, whom it bans.

Unlike `BanList.open`, which puts back what is missing, this changes nothing: it is for who asks, not for who bans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import attrs

from nfkeep.bans.discover import Listed, lists
from nfkeep.bans.given import ban_of
from nfkeep.bans.values import Ban, Element, Fill, Kind, Policy
from nfkeep.errors import ListGoneError


@attrs.frozen(slots=True)
class Look:
    """A list at one moment. `policy` is None where no rule tells it any more; then the list is not in force."""

    listed: Listed
    policy: Policy | None
    in_force: bool
    fills: tuple[Fill, ...]

    @property
    def entries(self) -> int:
        """How many bans take up room, those that have just ended among them."""
        return sum(fill.used for fill in self.fills)


def look(listed: Listed) -> Look:
    """How a list is. Raises ListGoneError if it is not there any more, PermissionDeniedError."""
    with contextlib.closing(_SEEN[listed.backend](listed)) as seen:
        policy = seen.policy()
        return Look(listed, policy, policy is not None and seen.in_force(policy), tuple(seen.fills()))


def look_at_all() -> tuple[Look, ...]:
    """How all lists here are, in the order of `nfkeep.bans.discover.lists`. Raises PermissionDeniedError."""
    found = []
    for listed in lists():
        with contextlib.suppress(ListGoneError):  # it was removed this moment
            found.append(look(listed))
    return tuple(found)


def bans(listed: Listed) -> Iterator[Ban]:
    """Whom a list bans, in no order. Raises as `look` does."""
    with contextlib.closing(_SEEN[listed.backend](listed)) as seen:
        for kind in Kind:
            for element in seen.elements(kind):
                yield ban_of(kind, element)


class Seen(Protocol):
    """What each backend tells of a list that is not opened; after `close` nothing."""

    def policy(self) -> Policy | None:
        """What the rules that are there do."""

    def in_force(self, policy: Policy) -> bool:
        """Whether nothing is missing that a list of this policy consists of."""

    def fills(self) -> Iterable[Fill]:
        """As Backend.fills."""

    def elements(self, kind: Kind) -> Iterable[Element]:
        """As Backend.elements; nothing of a kind that the backend does not keep."""

    def close(self) -> None:
        """Let go of the kernel."""


class _InNft:
    """A list in the table `inet nfkeep`."""

    def __init__(self, listed: Listed) -> None:
        from nfkeep.bans.nft_rules import TABLE, hit_chain, list_chain
        from nfkeep.bans.nft_sets import AddressSets
        from nfkeep.nft.batch import BatchSocket
        from nfkeep.nft.lasting import contents
        from nfkeep.nft.ruleset import Jump

        self._name = listed.name
        self._chain, self._hit = list_chain(listed.name), hit_chain(listed.name)
        asking = BatchSocket()
        try:
            self._table = contents(asking, TABLE)
        finally:
            asking.close()
        if self._chain not in self._table.chains:
            raise ListGoneError(listed.name)
        self._sets = AddressSets(listed.name, self._chain, self._chain, Jump(self._hit, goto=True), 1)

    def policy(self) -> Policy | None:
        from nfkeep.bans.nft_rules import read_policy

        return read_policy(self._table.comments(self._hit))

    def in_force(self, policy: Policy) -> bool:
        from nfkeep.bans import nft_rules as rules

        hit = tuple(comment for comment, _ in rules.hit_rules(policy))
        return (
            self._table.comments(self._hit) == hit
            and rules.jump_to_list(self._name)[0] in self._table.comments(rules.LISTS)
            and all(rules.jump_to_lists()[0] in self._table.comments(base) for base in rules.BASE_CHAINS)
            and self._looks_up(self._chain, self._chain)
            and self._looks_up(rules.ALLOW_SETS, rules.ALLOWED)
            and rules.from_loopback()[0] in self._table.comments(rules.ALLOWED)
        )

    def fills(self) -> Iterable[Fill]:
        return self._sets.fills()

    def elements(self, kind: Kind) -> Iterable[Element]:
        return self._sets.elements(kind)

    def close(self) -> None:
        self._sets.close()

    def _looks_up(self, prefix: str, chain: str) -> bool:
        """Whether the sets of hosts are there, and a rule for each set that is."""
        from nfkeep.bans.nft_rules import read_label, set_label

        there = {name.removeprefix(f"{prefix}/") for name in self._table.sets if name.startswith(f"{prefix}/")}
        hosts = {set_label(Kind.HOST4), set_label(Kind.HOST6)}
        sets = {label for label in there if read_label(label) is not None}
        return hosts <= sets <= set(self._table.comments(chain))


def _in_ipset(listed: Listed) -> Seen:
    from nfkeep.bans.look_legacy import InIpset

    return InIpset(listed)


def _in_recent(listed: Listed) -> Seen:
    from nfkeep.bans.look_legacy import InRecent

    return InRecent(listed)


_SEEN: dict[str, Callable[[Listed], Seen]] = {"nft": _InNft, "ipset": _in_ipset, "recent": _in_recent}
