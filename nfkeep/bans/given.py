"""What callers give to ban lists, checked before anything changes: addresses, timeouts, comments, what a list does.

Addresses and comments come out of logs that attackers write; what passes here is a key, a number or a printable line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias, TypeVar, get_args

from nfkeep.bans.backend import Backend
from nfkeep.bans.guards import NO_GUARDS, Guarded, refusal
from nfkeep.bans.values import Action, Address, Ban, Element, Kind, Policy, Rejection, address_of, services
from nfkeep.errors import InvalidAddressError, InvalidBanError, InvalidListError, NfkeepError, UnsupportedError
from nfkeep.nft.addresses import Guards, parse

Given: TypeAlias = str | Address
"""An address as callers give it."""
GivenBan: TypeAlias = Given | tuple[Given, float | None] | Ban
"""An address, an address and its timeout in seconds (None: for ever), or a ban with what is left of it."""

_Item = TypeVar("_Item")
_KINDS = tuple(Kind)
_LONGEST_SECONDS = 1 << 40


def read_address(given: object, guards: Guards = NO_GUARDS, guarded: Guarded | None = None) -> tuple[Kind, bytes]:
    """Kind and key of an address; raises InvalidAddressError, AllowedAddressError."""
    text = given if isinstance(given, str) else str(given)
    kind, key = parse(text.encode("utf-8", "replace"), guards)
    if kind >= 0:
        return _KINDS[kind], key
    raise refusal(given, -kind, guarded)


def several(given: Iterable[_Item]) -> Iterable[_Item]:
    """What was given, if it is several; a single address would be taken for its letters, or a network for its hosts.

    Raises InvalidAddressError.
    """
    if isinstance(given, (str, bytes, *get_args(Address))):
        raise InvalidAddressError(given, "this is one address, where several are to be given")
    return given


def read_policy(
    ports: Iterable[str] | None, action: str | None, reject_with: str | None, kill: bool | None
) -> Policy | None:
    """The policy that is asked for; None if nothing is. Raises InvalidListError."""
    if ports is None and action is None and reject_with is None and kill is None:
        return None
    try:
        rejection = Rejection(reject_with) if reject_with is not None else Rejection.PORT_UNREACHABLE
        return Policy(Action(action or "drop"), services(ports or ()), rejection, bool(kill))
    except ValueError as error:
        if isinstance(error, NfkeepError):
            raise
        raise InvalidListError(f"a ban list cannot do that: {error}") from None


def milliseconds(timeout: float) -> int:
    """At least one, and 0 for ever; raises InvalidBanError."""
    if type(timeout) is int and 0 < timeout < _LONGEST_SECONDS:
        return timeout * 1000
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InvalidBanError(f"a ban cannot last {timeout!r:.40} seconds; more than 0, or math.inf for ever")
    if timeout == math.inf:
        return 0
    if timeout > _LONGEST_SECONDS:
        raise InvalidBanError("a ban cannot last that long; math.inf is for ever")
    return math.ceil(timeout * 1000)


def check_comment(backend: Backend, comment: str) -> str:
    """The comment; raises InvalidBanError, UnsupportedError."""
    if not comment:
        return comment
    if not backend.limits.comment_bytes:
        raise UnsupportedError(f"{backend.kind_name} keeps no comments", "comment of a ban")
    # what lists a set prints a comment between quotes, and somebody will load that again
    if not isinstance(comment, str) or not comment.isprintable() or '"' in comment or "\\" in comment:
        raise InvalidBanError(f"the comment {comment!r:.80} has quotes, backslashes or what cannot be printed")
    if len(comment.encode()) > backend.limits.comment_bytes:
        raise InvalidBanError(f"a comment of {len(comment.encode())} bytes; {backend.limits.comment_bytes} fit")
    return comment


def read_item(item: object) -> tuple[Given, float | None, bool]:
    """Address, timeout in seconds, and whether one was given; raises InvalidBanError."""
    if isinstance(item, Ban):
        return item.address, math.inf if item.expires is None else item.expires, True
    if isinstance(item, tuple):
        if len(item) != 2:
            raise InvalidBanError(f"{item!r:.80} is not an address and a timeout")
        return item[0], math.inf if item[1] is None else item[1], True
    return item, None, False  # type: ignore[return-value]  # whatever it is, it is parsed before use


def ends_otherwise(element: Element, timeout_ms: int) -> bool:
    """Whether an element ends at another time than one that is banned now for so long."""
    if not element.timeout_ms or not timeout_ms:
        return bool(element.timeout_ms) != bool(timeout_ms)
    return abs(element.expires_ms - timeout_ms) > 1000


def ban_of(kind: Kind, element: Element) -> Ban:
    """The ban that an element is."""
    address = address_of(kind, element.key)
    if not element.timeout_ms:
        return Ban(address, comment=element.comment)
    return Ban(address, element.timeout_ms / 1000, element.expires_ms / 1000, element.comment)


def unsupported(kind: Kind, backend: Backend) -> NfkeepError:
    """The error for a kind that a backend cannot keep."""
    what = "networks" if kind.is_network else "hosts"
    return UnsupportedError(f"{backend.kind_name} lists hold no {kind.family} {what}", f"{kind.family} {what}")
