"""Ban lists in ipset: four sets for each list, which rules in the legacy tables ask.

A set is full at some number of elements. It grows long before that, while all processes that have the list open go on.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import attrs

from nfkeep.bans.backend import Added, Limits, Timeouts
from nfkeep.bans.legacy_rules import LegacyRules
from nfkeep.bans.values import Element, Fill, Kind, Policy, address_of
from nfkeep.errors import CommitError, ListFullError, ListGoneError, NfkeepError, UnsupportedError
from nfkeep.ipset import messages
from nfkeep.ipset.growing import LONGEST_NAME, GrowingSet
from nfkeep.ipset.messages import Header
from nfkeep.ipset.refusals import Refused, refusal
from nfkeep.ipset.sets import Sets
from nfkeep.model import Family
from nfkeep.nft.addresses import Guards

_log = logging.getLogger("nfkeep.bans")

_SUFFIXES = {Kind.HOST4: "4", Kind.HOST6: "6", Kind.NET4: "net4", Kind.NET6: "net6"}
_LEAST_NETWORKS, _HOSTS_PER_NETWORK = 1024, 8
_BYTES = tuple(kind.key_bytes for kind in Kind)
_IS_NETWORK = tuple(kind.is_network for kind in Kind)
_ZEROS = tuple(bytes(size) for size in _BYTES)
"""Keys that ipset does not take: the address that is all zeros, and the network of all addresses."""
_ONE = Added(1)


class IpsetBackend:
    """One list in ipset; see nfkeep.bans.backend.Backend. Its sets are nfkeep-NAME-4, -6, -net4 and -net6.

    Timeouts are whole seconds here, and are rounded up. ipset does not keep for how long a ban was made: `timeout_ms`
    of an element is what is left of it, as `expires_ms`. 0.0.0.0, `::` and networks of all addresses are refused.
    """

    kind_name = "ipset"
    limits = Limits(
        name_length=LONGEST_NAME - len("nfkeep--net4"),
        kinds=frozenset(Kind),
        timeout_ms=messages.MAX_SECONDS * 1000,
        comment_bytes=messages.MAX_COMMENT,
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self._rules = LegacyRules(name, {family: _matches(name, family) for family in Family})
        self._opened: _Opened | None = None

    def exists(self) -> bool:
        """As Backend.exists: whether one of the sets is there."""
        sets = self._opened.sets if self._opened is not None else Sets()
        try:
            return any(sets.has(_set_name(self.name, kind)) for kind in Kind)
        finally:
            if self._opened is None:
                sets.close()

    def open(self, policy: Policy | None, size: int, list_timeout_ms: int | None) -> Policy:
        """As Backend.open. CommitError (EEXIST) if one of the sets is there, but is not one that can keep bans."""
        opened = self._opened or _Opened.make(self.name)
        made: list[GrowingSet] = []
        try:
            for kind, each in zip(Kind, opened.by_kind, strict=True):
                wanted = _wanted(opened.sets, each.name, kind, size)
                if each.create(wanted):
                    made.append(each)
                else:
                    _check(each.header(), wanted)
            with opened.inside():
                policy = policy or self._rules.policy() or Policy()
                self._rules.install(policy)
        except BaseException:
            for each in made:
                _destroy_empty(each)
            if self._opened is None:
                opened.sets.close()
            raise
        self._opened = opened
        return policy

    def in_force(self) -> bool:
        """As Backend.in_force."""
        opened = self._open()
        try:
            for kind, each in zip(Kind, opened.by_kind, strict=True):
                _check(each.header(), _wanted(opened.sets, each.name, kind, 1))
        except CommitError:
            return False
        with opened.inside():
            return self._rules.in_force()

    def ban_host(self, text: bytes, guards: Guards, timeout_ms: int) -> bool:
        """As Backend.ban_host: there is no quicker way than `add` here."""
        return False

    def unban_host(self, text: bytes) -> bool | None:
        """As Backend.unban_host: there is no quicker way than `remove` here."""
        return None

    def add(self, kind: Kind, keys: bytes, timeouts: Timeouts, comment: str = "") -> Added:
        """As Backend.add."""
        adding = self._open().by_kind[kind]
        items = _items(kind, keys, timeouts, comment)
        refused: dict[int, NfkeepError] = {}
        positions: Sequence[int] = ()
        if _ZEROS[kind] in keys:
            refused = dict.fromkeys(_zeros(kind, keys), _unsupported(kind))
            positions = [position for position in range(len(items)) if position not in refused]
            items = [items[position] for position in positions]
        try:
            failed = adding.add(items)
        except CommitError as error:
            raise self._told(error, kind) from error
        if not failed and not refused:
            return _ONE if len(items) == 1 else Added(len(items))
        for at, number in failed.items():
            refused[positions[at] if positions else at] = refusal(number, f"adding to the set {adding.name}")
        return Added(len(items) - len(failed), sorted(refused.items()))

    def remove(self, kind: Kind, keys: bytes) -> int:
        """As Backend.remove."""
        opened = self._open()
        zeros = set(_zeros(kind, keys)) if _ZEROS[kind] in keys else ()
        items = [item for position, item in enumerate(_identities(kind, keys)) if position not in zeros]
        try:
            return opened.by_kind[kind].remove(items)
        except CommitError as error:
            raise self._told(error, kind) from error

    def get(self, kind: Kind, key: bytes) -> Element | None:
        """As Backend.get. That there is nothing is known at once; otherwise the kernel has to list the whole set."""
        opened = self._open()
        if key == _ZEROS[kind]:
            return None
        (identity,) = _identities(kind, key)
        try:
            found = opened.by_kind[kind].find(identity)
        except CommitError as error:
            raise self._told(error, kind) from error
        if found is None or messages.is_exception(found[1]):
            return None
        return _element(key, *found)

    def elements(self, kind: Kind) -> Iterable[Element]:
        """As Backend.elements: those that are in at the time of the call. Exceptions (`nomatch`) are no bans."""
        opened = self._open()
        try:
            found = opened.by_kind[kind].members()
        except CommitError as error:
            raise self._told(error, kind) from error
        return _elements(found)

    def count(self, kind: Kind) -> int:
        """As Backend.count."""
        opened = self._open()
        try:
            return opened.by_kind[kind].fill()[0]
        except CommitError as error:
            raise self._told(error, kind) from error

    def fills(self) -> tuple[Fill, ...]:
        """As Backend.fills."""
        opened = self._open()
        try:
            return tuple(Fill(each.name, *each.fill()) for each in opened.by_kind)
        except CommitError as error:
            raise self._told(error) from error

    def flush(self) -> None:
        """As Backend.flush."""
        opened = self._open()
        try:
            for each in opened.by_kind:
                each.flush()
        except CommitError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """As Backend.close."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.sets.close()

    def destroy(self) -> None:
        """As Backend.destroy. CommitError (BUSY) if a rule of somebody else uses a set; then it is there, but empty."""
        opened = self._opened or _Opened.make(self.name)
        self._opened = None
        try:
            with opened.inside():
                self._rules.remove()
            for each in opened.by_kind:
                each.destroy()
        finally:
            opened.sets.close()

    def allowed(self) -> Iterable[tuple[Kind, bytes]]:
        """As Backend.allowed; one list with the backend recent."""
        with self._open().inside():
            return self._rules.allowed()

    def allow(self, kind: Kind, keys: bytes) -> None:
        """As Backend.allow."""
        with self._open().inside():
            self._rules.allow(kind, keys)

    def except_for(self, kind: Kind, key: bytes, timeout_ms: int, comment: str) -> None:
        """As Backend.except_for: rules have no time."""

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """As Backend.disallow."""
        with self._open().inside():
            return self._rules.disallow(kind, keys)

    def _open(self) -> _Opened:
        if self._opened is None:
            raise ListGoneError(self.name)
        return self._opened

    def _told(self, error: CommitError, kind: Kind | None = None) -> NfkeepError:
        """What a caller is told for an error of a set."""
        if error.errno == errno.ENOENT:
            return ListGoneError(self.name)
        if error.errno in (Refused.FULL, errno.ENOMEM) and kind is not None:
            header = self._open().by_kind[kind].header()
            size = header.size if header is not None else 0
            return ListFullError(self.name, size, f"it cannot grow ({error}); lift bans, or free some memory")
        return error


@attrs.frozen(slots=True)
class _Opened:
    """What an open list holds on to: a socket, and through it the sets, in the order of the kinds."""

    sets: Sets
    by_kind: tuple[GrowingSet, ...]

    @classmethod
    def make(cls, name: str) -> _Opened:
        sets = Sets()

        def warn(text: str) -> None:
            _log.warning("ban list %s: %s", name, text)

        return cls(sets, tuple(GrowingSet(sets, _set_name(name, kind), warn) for kind in Kind))

    def inside(self) -> AbstractContextManager[object]:
        """The namespace of the list, for what concerns that of the calling thread."""
        return self.sets.channel.inside()


def _set_name(name: str, kind: Kind) -> str:
    return f"nfkeep-{name}-{_SUFFIXES[kind]}"


def _matches(name: str, family: Family) -> list[str]:
    return [f"-m set --match-set {_set_name(name, kind)} src" for kind in Kind if kind.family is family]


def _wanted(sets: Sets, set_name: str, kind: Kind, size: int) -> Header:
    if kind.is_network:
        return sets.describe(set_name, "hash:net", kind.family, max(_LEAST_NETWORKS, size // _HOSTS_PER_NETWORK))
    return sets.describe(set_name, "hash:ip", kind.family, size)


def _check(found: Header | None, wanted: Header) -> None:
    """Raise CommitError unless the set that is there can keep the bans."""
    if found is None:
        raise refusal(errno.ENOENT, f"adopting the set {wanted.name}")
    lacks = []
    if (found.type_name, found.family) != (wanted.type_name, wanted.family):
        lacks.append(f"it is a {found.type_name} for {found.family}, not a {wanted.type_name} for {wanted.family}")
    if found.timeout is None:
        lacks.append("its elements cannot have timeouts")
    if not found.flags & messages.WITH_COMMENT:
        lacks.append("its elements cannot have comments")
    if found.flags & messages.WITH_FORCEADD:
        lacks.append("it drops elements when it is full (forceadd)")
    if lacks:
        raise CommitError(
            f"there is a set {wanted.name} that cannot keep bans: {', '.join(lacks)}; rename or destroy it",
            applied=False,
            errno=errno.EEXIST,
        )


def _destroy_empty(made: GrowingSet) -> None:
    """Undo the making of a set, unless another process has found a use for it."""
    try:
        if not made.fill()[0]:
            made.destroy()
    except CommitError:
        pass


def _items(kind: Kind, keys: bytes, timeouts: Timeouts, comment: str) -> list[bytes]:
    identities = _identities(kind, keys)
    if isinstance(timeouts, int):
        tail = _tail(timeouts, comment)
        return [identity + tail for identity in identities]
    return [identity + _tail(timeout, comment) for identity, timeout in zip(identities, timeouts, strict=True)]


@functools.lru_cache(256)
def _tail(timeout_ms: int, comment: str) -> bytes:
    seconds = min(-(-timeout_ms // 1000), messages.MAX_SECONDS)
    return messages.lifetime(seconds) + messages.comment(comment)


def _identities(kind: Kind, keys: bytes) -> list[bytes]:
    size = _BYTES[kind]
    if not _IS_NETWORK[kind]:
        return messages.hosts(keys, size) if len(keys) != size else [messages.identity(keys)]
    half = size // 2
    return [
        messages.identity(keys[at : at + half], int.from_bytes(keys[at + half : at + size], "big").bit_count())
        for at in range(0, len(keys), size)
    ]


def _zeros(kind: Kind, keys: bytes) -> list[int]:
    """The positions of keys that ipset does not take."""
    size, zero = _BYTES[kind], _ZEROS[kind]
    return [at // size for at in range(0, len(keys), size) if keys[at : at + size] == zero]


def _unsupported(kind: Kind) -> UnsupportedError:
    address = address_of(kind, _ZEROS[kind])
    what = "networks of all addresses" if kind.is_network else "the address that is all zeros"
    return UnsupportedError(f"ipset cannot hold {what} ({address})", f"ipset: {address}")


def _element(key: bytes, seconds: int, rest: bytes) -> Element:
    return Element(key, seconds * 1000, seconds * 1000, messages.comment_of(rest) if rest else "")


def _elements(members: messages.Members) -> Iterator[Element]:
    for identity, (seconds, rest) in members.items():
        if rest and messages.is_exception(rest):
            continue
        address, prefix = messages.address_of(identity)
        yield _element(address if prefix is None else address + _mask(len(address), prefix), seconds, rest)


def _mask(address_bytes: int, prefix: int) -> bytes:
    bits = address_bytes * 8
    return ((1 << bits) - (1 << bits - prefix)).to_bytes(address_bytes, "big")
