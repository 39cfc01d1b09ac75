"""Ban lists in xt_recent: the kernel's own lists of addresses, in /proc/net/xt_recent, that legacy rules ask.

The list has the name of the ban list, so that one which is there already is adopted with all its addresses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from io import FileIO

import attrs

from nfkeep.bans.backend import Added, Limits, Timeouts
from nfkeep.bans.discover import find
from nfkeep.bans.legacy_rules import LONGEST_NAME, LegacyRules
from nfkeep.bans.recent_list import RecentList
from nfkeep.bans.recent_probe import require_recent
from nfkeep.bans.recent_users import users, ways
from nfkeep.bans.values import Element, Fill, Kind, Policy
from nfkeep.errors import InvalidListError, ListGoneError, UnsupportedError
from nfkeep.keep import hold
from nfkeep.model import Family
from nfkeep.namespaces import Namespace
from nfkeep.nft.addresses import Guards, parse
from nfkeep.xtables import recent
from nfkeep.xtables.jiffies import read_clock
from nfkeep.xtables.lock import XtablesLock

_NAMESPACE = "/proc/thread-self/ns/net"
_MOST_JIFFIES = (1 << 32) - 1  # recent_mt() computes `seconds * HZ` in 32 bits
_HIGHEST_RATE = 1000
_HOST4 = Kind.HOST4

_HOSTS = (0, 1)  # the numbers of Kind.HOST4 and HOST6, which as enums take a fifth of the time of a ban


class RecentBackend:
    """One list of xt_recent; see nfkeep.bans.backend.Backend. Hosts only, without comments, with one timeout for all.

    Every list has the room that the kernel was started with (`ip_list_tot`, 100 unless set): `size` cannot change that.
    A child made by fork(2) opens the list anew.
    """

    kind_name = "recent"
    limits = Limits(
        name_length=LONGEST_NAME,
        kinds=frozenset({Kind.HOST4, Kind.HOST6}),
        timeout_ms=0,
        comment_bytes=0,
        list_timeout=True,
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self._opened: _Opened | None = None

    def exists(self) -> bool:
        """As Backend.exists."""
        with self._inside():
            if os.path.exists(f"{recent.DIRECTORY}/{self.name}"):
                return True
            require_recent()
            return False

    def open(self, policy: Policy | None, size: int, list_timeout_ms: int | None) -> Policy:
        """As Backend.open. The timeout is rounded up to seconds; InvalidListError if the kernel cannot count that far.

        Rules of somebody else that name the list stay as they are. Where our own came back by iptables-restore, the
        list may have a mask that is none for IPv6 (`nfkeep.bans.recent_users`): then it is made anew, and its addresses
        are stamped anew.
        """
        with self._inside():
            self.exists()  # or an error where it could not
            if list_timeout_ms is None:  # adopted as it is
                there = find(self.name, self.kind_name)
                list_timeout_ms = round((there.timeout or 0) * 1000) if there is not None else 0
            seconds = _seconds(list_timeout_ms)
            own_rules = LegacyRules(self.name, dict.fromkeys(Family, ()))
            policy = policy or own_rules.policy() or Policy()
            chosen = ways(self.name, seconds, users(self.name), own_rules.chains)
            rescued: list[bytes] = []
            if chosen.is_to_be_remade:
                rescued = _oldest_first(self.name)
                own_rules.remove()
            rules = LegacyRules(self.name, chosen.matches)
            rules.install(policy)
            self.close()
            self._opened = _Opened.make(self.name, seconds, rules, chosen.refused)
        if rescued:
            self._opened.entries.add(rescued)
        return policy

    def in_force(self) -> bool:
        """As Backend.in_force."""
        opened = self._open()
        with self._inside():
            return opened.entries.is_alive() and opened.rules.in_force()

    def ban_host(self, text: bytes, guards: Guards, timeout_ms: int) -> bool:
        """As Backend.ban_host."""
        opened = self._opened
        kind, key = parse(text, guards)
        if opened is None or kind not in _HOSTS or opened.refused or b"/" in text or (kind == 0 and b":" in text):
            return False  # among others what the kernel would read otherwise: IPv4 in IPv6's clothes, prefixes
        return opened.entries.add_host(key, text)

    def unban_host(self, text: bytes) -> bool | None:
        """As Backend.unban_host: there is no quicker way than `remove` here."""
        return None

    def add(self, kind: Kind, keys: bytes, timeouts: Timeouts, comment: str = "") -> Added:
        """As Backend.add; `timeouts` are 0. Refused are keys without room (ListFullError), or of a kind without effect.

        The latter, with UnsupportedError, where a rule of somebody else has made the list for networks.
        """
        opened = self._opened or self._open()
        each = _split(kind, keys)
        if opened.refused and kind in opened.refused:
            return Added(0, [(position, opened.refused[kind]) for position in range(len(each))])
        return opened.entries.add(each)

    def remove(self, kind: Kind, keys: bytes) -> int:
        """As Backend.remove."""
        return self._open().entries.remove(_split(kind, keys))

    def get(self, kind: Kind, key: bytes) -> Element | None:
        """As Backend.get. Reads the whole list."""
        return next((element for element in self.elements(kind) if element.key == key), None)

    def elements(self, kind: Kind) -> Iterable[Element]:
        """As Backend.elements. An address past its timeout is none, though it still takes up room.

        `expires_ms` is the whole timeout where the kernel's clock cannot be read (`nfkeep.xtables.jiffies`).
        """
        return self._open().entries.elements(kind)

    def count(self, kind: Kind) -> int:
        """As Backend.count."""
        return sum(1 for _ in self.elements(kind))

    def fills(self) -> tuple[Fill, ...]:
        """As Backend.fills."""
        entries = self._open().entries
        return (Fill(self.name, entries.used(), entries.capacity.size),)

    def flush(self) -> None:
        """As Backend.flush."""
        self._open().entries.flush()

    def close(self) -> None:
        """As Backend.close."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.entries.close()
            opened.namespace.close()

    def destroy(self) -> None:
        """As Backend.destroy. Where a rule of somebody else names the list, it stays, with its addresses."""
        with self._inside():
            LegacyRules(self.name, dict.fromkeys(Family, ())).remove()
            state = (recent.NAME, self.name)
            for family in Family:
                if state in hold.held(family):
                    with XtablesLock():
                        hold.take_down(family, {state})
        self.close()

    def allowed(self) -> Iterable[tuple[Kind, bytes]]:
        """As Backend.allowed; one list with the backend ipset."""
        with self._inside():
            return LegacyRules(self.name, {}).allowed()

    def allow(self, kind: Kind, keys: bytes) -> None:
        """As Backend.allow."""
        with self._inside():
            LegacyRules(self.name, {}).allow(kind, keys)

    def except_for(self, kind: Kind, key: bytes, timeout_ms: int, comment: str) -> None:
        """As Backend.except_for: rules have no time."""

    def disallow(self, kind: Kind, keys: bytes) -> int:
        """As Backend.disallow."""
        with self._inside():
            return LegacyRules(self.name, {}).disallow(kind, keys)

    def _open(self) -> _Opened:
        if self._opened is None:
            raise ListGoneError(self.name)
        return self._opened

    def _inside(self) -> AbstractContextManager[object]:
        """The namespace of the list; the calling thread's, before it is open."""
        if self._opened is None or self._opened.namespace.inode == os.stat(_NAMESPACE).st_ino:
            return contextlib.nullcontext()
        return self._opened.namespace


class _ThisNamespace(Namespace):
    """The network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._processes = []
        self._handle = _open(_NAMESPACE)


@attrs.frozen(slots=True)
class _Opened:
    """What an open list holds on to. `refused`: kinds that the list cannot take, with the reason."""

    namespace: Namespace
    rules: LegacyRules
    entries: RecentList
    refused: Mapping[Kind, UnsupportedError]

    @classmethod
    def make(cls, name: str, seconds: int, rules: LegacyRules, refused: Mapping[Kind, UnsupportedError]) -> _Opened:
        namespace = _ThisNamespace()
        try:
            return cls(namespace, rules, RecentList(name, seconds, namespace.fileno()), refused)
        except BaseException:
            namespace.close()
            raise


def _open(path: str) -> FileIO:
    return open(path, "rb", buffering=0)


def _split(kind: Kind, keys: bytes) -> list[bytes]:
    size = 4 if kind is _HOST4 else 16
    return [keys] if len(keys) == size else [keys[at : at + size] for at in range(0, len(keys), size)]


def _seconds(timeout_ms: int) -> int:
    if not timeout_ms:
        return 0
    seconds = -(-timeout_ms // 1000)
    clock = read_clock()
    longest = _MOST_JIFFIES // (clock.rate if clock is not None else _HIGHEST_RATE)
    if seconds > longest:
        raise InvalidListError(f"a timeout of {seconds} s is too long for xt_recent: at most {longest} s")
    return seconds


def _oldest_first(name: str) -> list[bytes]:
    """What a list holds, in the order in which it was seen."""
    try:
        with open(f"{recent.DIRECTORY}/{name}", "rb") as file:
            stamps = recent.parse(file.read())
    except FileNotFoundError:
        return []
    return sorted(stamps, key=lambda key: stamps[key])
