"""What a ban list asks of the part of the kernel that keeps it: three backends answer to this, and nothing else does.

Keys come checked, and none twice in a call; how they look is said at `nfkeep.bans.values.Kind`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import attrs

from nfkeep.bans.values import Element, Fill, Kind, Policy
from nfkeep.errors import NfkeepError
from nfkeep.nft.addresses import Guards

Timeouts: TypeAlias = "int | array[int]"
"""Milliseconds, one for all keys or one for each ('Q'); 0 is for ever."""


@attrs.frozen(slots=True)
class Added:
    """What came of adding keys: how many are in force now, new or renewed, and those refused, with why."""

    banned: int
    refused: Sequence[tuple[int, NfkeepError]] = ()


@attrs.frozen(slots=True)
class Limits:
    """What a backend can keep, so that everything else is refused before it is asked for.

    `timeout_ms`: the longest for one ban, 0 if single bans cannot have one (`list_timeout` then tells if the list can).
    """

    name_length: int
    kinds: frozenset[Kind]
    timeout_ms: int
    comment_bytes: int
    list_timeout: bool = False


class Backend(Protocol):
    """One list in one network namespace: the one that was current when `open` was called.

    Every method raises PermissionDeniedError, UnsupportedError, CommitError; those that need the list to be there
    raise ListGoneError if it is not (any more). For one thread at a time.
    """

    kind_name: str
    """nft, ipset or recent."""
    limits: Limits

    def exists(self) -> bool:
        """Whether the list is there, with or without its rules. Makes nothing."""

    def open(self, policy: Policy | None, size: int, list_timeout_ms: int | None) -> Policy:
        """Make the list, or adopt the one that is there with all its elements; return the policy in force then.

        `policy` None keeps that of an adopted list (a new one drops everything); another one replaces the rules, in
        one step, and no element is touched. `size`: elements that each set of hosts has room for at first.
        `list_timeout_ms`: of all bans, where `limits.list_timeout`; 0 is none, None that of an adopted list.
        Idempotent.
        """

    def in_force(self) -> bool:
        """Whether sets and rules are all there."""

    @property
    def ban_host(self) -> Callable[[bytes, Guards, int], bool]:
        """The quick way for what most bans are: one host, by its text, without a comment; with a timeout in ms.

        Whether that was all there was to do; else nothing was done, and the long way finds out what it is. What is
        called is good until the list is closed.
        """

    def unban_host(self, text: bytes) -> bool | None:
        """The same for an unban: whether the host was in; None if it takes the long way to find out."""

    def add(self, kind: Kind, keys: bytes, timeouts: Timeouts, comment: str = "") -> Added:
        """Add keys, one behind the other in `keys`; those that are there have timeout and comment renewed.

        A key that cannot go in is named in the answer while the others go in; nothing that was in falls out.
        """

    def remove(self, kind: Kind, keys: bytes) -> int:
        """Take keys out; how many were in."""

    def get(self, kind: Kind, key: bytes) -> Element | None:
        """What is under a key."""

    def elements(self, kind: Kind) -> Iterable[Element]:
        """All that is in, in no order."""

    def count(self, kind: Kind) -> int:
        """How many there are."""

    def fills(self) -> tuple[Fill, ...]:
        """How full each kernel object is that can fill up."""

    def flush(self) -> None:
        """Take all elements out; the rules stay."""

    def close(self) -> None:
        """Let go of sockets and files; the list stays in force. Idempotent."""

    def destroy(self) -> None:
        """Take down the list: its rules and its elements. Idempotent."""

    def allowed(self) -> Iterable[tuple[Kind, bytes]]:
        """The allow list, which is one for all lists of this backend."""

    def allow(self, kind: Kind, keys: bytes) -> None:
        """Add to the allow list: no ban of any list has an effect on these any more."""

    def except_for(self, kind: Kind, key: bytes, timeout_ms: int, comment: str) -> None:
        """Let it through for a time although a network around them is banned; where entries have no time, nothing.

        For what the host needs and may not have tomorrow: its gateways.
        """

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """Take keys out of the allow list; how many were in."""
