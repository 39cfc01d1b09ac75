"""BanList: the one class that programs use to ban addresses, whatever part of the kernel keeps them.

A ban is in force for the next packet, and no rule, table or other ban is touched for it.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from nfkeep.bans.backend import Backend
from nfkeep.bans.bulk import by_kind, with_timeouts
from nfkeep.bans.choose import choose
from nfkeep.bans.difference import Wanted, difference, networks_around
from nfkeep.bans.given import (
    Given,
    GivenBan,
    ban_of,
    check_comment,
    milliseconds,
    read_address,
    read_item,
    read_policy,
    several,
    unsupported,
)
from nfkeep.bans.guards import NO_GUARDS
from nfkeep.bans.opened import Opened, checked_timeout
from nfkeep.bans.values import Address, Ban, Fill, Kind, Policy, address_of, check_name
from nfkeep.errors import (
    InvalidListError,
    ListGoneError,
    NfkeepError,
    RefusedBansError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

DEFAULT_SIZE = 131_072
_AT_ONCE = 10_000  # addresses looked at in one go


@attrs.frozen(slots=True)
class Reconciled:
    """What `BanList.reconcile` did, in bans."""

    added: int
    renewed: int
    removed: int


class BanList:
    """A named list of banned hosts and networks, IPv4 and IPv6, in the network namespace that `open` is called in.

    `backend`: "nft" (a table of its own), "ipset" or "recent" (xt_recent; both with rules in the legacy tables), or
    "auto": the one that has this list, else the first of these that the kernel has; `reason` says why.

    What the list does to packets from a banned source, on input and forward, ahead of all other filtering: `action`
    "drop", "reject" (with `reject_with`: port-unreachable, host-unreachable, admin-prohibited, no-route or tcp-reset)
    or "count" only; to all packets, or those to `ports` ("22/tcp", "http", "1000-2000/udp", "53", "icmp", …). With
    `kill` a ban also deletes the conntrack entries that the host has open to these ports. If none of these four is
    given, an existing list is adopted as it is.

    `timeout`: seconds for bans that say none (None: for ever). `size`: entries that there is room for at first; the
    list grows at 80 % and says so (logging, "nfkeep.bans"). `allow`: hosts and networks that go into the allow list,
    which is one for all lists of the backend, and wins over every ban.

    Safe to use from several threads and, after a fork, from parent and child; any number of processes may have the
    same list open. `close` (or leaving the `with` block) leaves all bans in force.

    Raises InvalidListError.
    """

    def __init__(
        self,
        name: str,
        backend: str = "auto",
        *,
        ports: Iterable[str] | None = None,
        action: str | None = None,
        reject_with: str | None = None,
        kill: bool | None = None,
        timeout: float | None = None,
        size: int = DEFAULT_SIZE,
        allow: Iterable[Given] = (),
    ) -> None:
        check_name(name, 64)
        self.name = name
        self.timeout = timeout
        self._asked = backend
        self._policy = read_policy(ports, action, reject_with, kill)
        self._default_ms = 0 if timeout is None else milliseconds(timeout)
        if not isinstance(size, int) or not 1 <= size <= 1 << 24:
            raise InvalidListError(f"a list cannot have a size of {size!r:.40}; it is from 1 to {1 << 24}")
        self._size = size
        self._allow = [*several(allow)]
        self._opened: Opened | None = None
        self._stale = False
        self._lock = threading.RLock()
        _open_lists.add(self)

    @property
    def backend(self) -> str:
        """nft, ipset or recent; before `open` what was asked for."""
        return self._asked if self._opened is None else self._opened.backend.kind_name

    @property
    def reason(self) -> str:
        """Why it is this backend, in a sentence; "" before `open`."""
        return "" if self._opened is None else self._opened.reason

    @property
    def policy(self) -> Policy:
        """What the list does to whom; before `open` what was asked for."""
        return self._policy or Policy()

    def open(self) -> Self:
        """Make what the kernel needs, or adopt what is there with all its bans. Idempotent.

        Also puts back rules that somebody removed. Raises PermissionDeniedError, UnsupportedError, InvalidListError,
        CommitError; then nothing is half done.
        """
        with self._lock:
            if self._stale:
                self._stale = False
                self.close()
            allowed = [read_address(each) for each in self._allow]
            if self._opened is not None:
                self._policy = self._make(self._opened.backend, allowed)
                self._opened.look_around(self._policy)
                return self
            backend, reason = choose(self.name, self._asked)
            if self.timeout is not None and not backend.limits.list_timeout:
                checked_timeout(backend, self.timeout, self._default_ms)
            try:
                self._policy = self._make(backend, allowed)
                self._opened = Opened(backend, reason, self._policy, self._default_ms)
            except BaseException:
                backend.close()
                raise
        return self

    def exists(self) -> bool:
        """Whether the list is there; makes nothing."""
        with self._lock:
            if self._opened is not None:
                return self._opened.backend.exists()
            return choose(self.name, self._asked)[0].exists()

    def in_force(self) -> bool:
        """Whether the list and all its rules are there; `open` mends what is not."""
        with self._lock:
            return self._backend().in_force()

    def ban(self, address: Given, timeout: float | None = None, *, comment: str = "", force: bool = False) -> None:
        """Ban a host or a network; it is in force for the next packet. If it is banned already, its timeout is renewed.

        A comment stays until another one is given, in nftables from Linux 6.12 on; before, the next ban takes it away.
        `timeout`: seconds; None is the list's own, math.inf for ever. Raises InvalidAddressError, InvalidBanError,
        AllowedAddressError (the allow list, this host itself, its gateways; without `force` the SSH peer and 0/0),
        ListFullError, ListGoneError.
        """
        with self._lock:
            opened = self._opened
            if opened is None or time.monotonic() > opened.fresh_until:
                opened = self._ready()
                opened.refresh()
            if timeout is None:
                timeout_ms = opened.plain_ms
            elif type(timeout) is int and 0 < timeout < opened.longest_seconds:
                timeout_ms = timeout * 1000
            else:
                timeout_ms = opened.timeout_ms(timeout)
            if type(address) is str and not comment and not force and opened.killer is None:
                text = address.encode("utf-8", "replace")
                if opened.ban_host(text, opened.guards, timeout_ms):
                    return
            backend = opened.backend
            kind, key = read_address(address, opened.guards_for(force), opened.guarded)
            if kind not in backend.limits.kinds:
                raise unsupported(kind, backend)
            added = backend.add(kind, key, timeout_ms, check_comment(backend, comment))
            if added.refused:
                raise added.refused[0][1]
            if opened.killer is not None:
                opened.killer.kill([(kind, key)])

    def unban(self, address: Given) -> bool:
        """Lift one ban, of exactly this host or network; whether there was one. Raises as `ban` does."""
        with self._lock:
            backend = self._backend()
            if type(address) is str:
                removed = backend.unban_host(address.encode("utf-8", "replace"))
                if removed is not None:
                    return removed
            kind, key = read_address(address)
            return kind in backend.limits.kinds and backend.remove(kind, key) == 1

    def ban_many(self, bans: Iterable[GivenBan], timeout: float | None = None, *, force: bool = False) -> int:
        """Ban many: addresses, pairs of an address and its timeout, or each a `Ban`. How many are in force now.

        A ban that cannot be is left out, and all the others are made; then RefusedBansError tells which and why.
        """
        refused: list[tuple[object, NfkeepError]] = []
        banned = 0
        rest = iter(several(bans))
        while chunk := list(itertools.islice(rest, _AT_ONCE)):
            with self._lock:
                opened = self._ready()
                if time.monotonic() > opened.fresh_until:
                    opened.refresh()
                banned += self._ban_chunk(opened, chunk, timeout, force, refused)
        if refused:
            raise RefusedBansError(tuple(refused), banned)
        return banned

    def unban_many(self, addresses: Iterable[Given]) -> int:
        """Lift many bans; how many there were. RefusedBansError tells of what is no address, when all else is done."""
        refused: list[tuple[object, NfkeepError]] = []
        removed = 0
        rest = iter(several(addresses))
        while chunk := list(itertools.islice(rest, _AT_ONCE)):
            with self._lock:
                backend = self._backend()
                for kind, keys, _ in by_kind(chunk, NO_GUARDS, None, refused):
                    if kind in backend.limits.kinds:
                        removed += backend.remove(kind, keys)
        if refused:
            raise RefusedBansError(tuple(refused), removed)
        return removed

    def covering(self, address: Given) -> tuple[Ban, ...]:
        """The bans that a host or network falls under: its own, and those of networks that it lies in."""
        with self._lock:
            backend = self._backend()
            kind, key = read_address(address)
            own = backend.get(kind, key) if kind in backend.limits.kinds else None
            found = [] if own is None else [ban_of(kind, own)]
            nets = Kind.NET6 if kind & 1 else Kind.NET4
            if nets in backend.limits.kinds:
                found += [ban_of(nets, each) for each in networks_around(kind, key, backend.elements(nets))]
            return tuple(found)

    def __contains__(self, address: object) -> bool:
        """Whether exactly this host or network is in the list; `covering` also looks at networks around it."""
        with self._lock:
            backend = self._backend()
            kind, key = read_address(address)
            return kind in backend.limits.kinds and backend.get(kind, key) is not None

    def __len__(self) -> int:
        with self._lock:
            backend = self._backend()
            return sum(backend.count(kind) for kind in backend.limits.kinds)

    def __iter__(self) -> Iterator[Ban]:
        with self._lock:
            backend = self._backend()
            found = [(kind, list(backend.elements(kind))) for kind in sorted(backend.limits.kinds)]
        return (ban_of(kind, element) for kind, elements in found for element in elements)

    def __bool__(self) -> bool:
        return True  # a list without bans is a list

    def reconcile(self, wanted: Iterable[GivenBan]) -> Reconciled:
        """Make the list equal to `wanted` with the fewest changes.

        What is in both is left alone, unless a timeout is given that differs by more than a second from what is left.
        Raises InvalidAddressError, InvalidBanError, AllowedAddressError before anything is changed.
        """
        with self._lock:
            opened = self._ready()
            opened.refresh()
            backend = opened.backend
            goal: dict[tuple[Kind, bytes], Wanted] = {}
            for item in several(wanted):
                given, timeout, timed = read_item(item)
                key = read_address(given, opened.guards, opened.guarded)
                if key[0] not in backend.limits.kinds:
                    raise unsupported(key[0], backend)
                goal[key] = Wanted(item, opened.timeout_ms(timeout) if timed else None)
            kinds = backend.limits.kinds
            there = [(kind, element) for kind in kinds for element in backend.elements(kind)]
            change = difference(goal, there)
            removed = sum(backend.remove(kind, keys) for kind, keys in change.gone.items())
            self.ban_many(change.renew)
            self.ban_many(change.add)
            return Reconciled(len(change.add), len(change.renew), removed)

    def flush(self) -> None:
        """Lift all bans; the list stays in force."""
        with self._lock:
            self._backend().flush()

    def fills(self) -> tuple[Fill, ...]:
        """How full each kernel object of the list is."""
        with self._lock:
            return self._backend().fills()

    def allowed(self) -> tuple[Address, ...]:
        """The allow list."""
        with self._lock:
            return tuple(address_of(*entry) for entry in self._backend().allowed())

    def allow(self, *addresses: Given) -> None:
        """Add hosts and networks to the allow list: no ban of any list has an effect on them from now on."""
        with self._lock:
            opened = self._ready()
            for kind, key in [read_address(each) for each in addresses]:
                opened.backend.allow(kind, key)
            opened.refresh()

    def disallow(self, *addresses: Given) -> int:
        """Take hosts and networks out of the allow list; how many were in."""
        with self._lock:
            opened = self._ready()
            entries = [read_address(each) for each in addresses]
            removed = sum(opened.backend.disallow(*entry) for entry in entries)
            opened.refresh()
            return removed

    def close(self) -> None:
        """Let go of the kernel; every ban stays in force. Idempotent."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    def remove(self) -> None:
        """Take the list down, bans, rules and all. Idempotent."""
        with self._lock:
            backend = self._opened.backend if self._opened is not None else choose(self.name, self._asked)[0]
            try:
                if self._opened is None and backend.exists():
                    backend.open(None, self._size, None)
                    backend.destroy()
                elif self._opened is not None:
                    backend.destroy()
            finally:
                backend.close()
                self.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BanList {self.name} {self.backend}{'' if self._opened else ' closed'}>"

    def _ready(self) -> Opened:
        if self._opened is None:
            raise ListGoneError(self.name)
        if self._stale:  # sockets are not shared with the process that this one was forked from
            self._stale = False
            before = self._opened
            before.close()
            policy = before.backend.open(None, self._size, None)
            self._opened = Opened(before.backend, before.reason, policy, self._default_ms)
        return self._opened

    def _backend(self) -> Backend:
        return self._ready().backend

    def _make(self, backend: Backend, allowed: list[tuple[Kind, bytes]]) -> Policy:
        # without a timeout, an adopted list keeps the one that it has
        list_timeout_ms = self._default_ms if backend.limits.list_timeout and self.timeout is not None else None
        policy = backend.open(self._policy, self._size, list_timeout_ms)
        for kind, key in allowed:
            backend.allow(kind, key)
        return policy

    def _ban_chunk(
        self,
        opened: Opened,
        chunk: list[GivenBan],
        timeout: float | None,
        force: bool,
        refused: list[tuple[object, NfkeepError]],
    ) -> int:
        """Add to `refused`; how many are in force now."""
        backend, default = opened.backend, opened.timeout_ms(timeout)
        givens, timeouts = with_timeouts(chunk, default, opened.timeout_ms, refused)
        banned = 0
        for kind, keys, positions in by_kind(givens, opened.guards_for(force), opened.guarded, refused):
            if kind not in backend.limits.kinds:
                refused += [(givens[at], unsupported(kind, backend)) for at in positions]
                continue
            each = default if timeouts is None else array("Q", [timeouts[at] for at in positions])
            added = backend.add(kind, keys, each)
            refused += [(givens[positions[at]], error) for at, error in added.refused]
            banned += added.banned
            if opened.killer is not None:
                size = kind.key_bytes
                opened.killer.kill([(kind, keys[at : at + size]) for at in range(0, len(keys), size)])
        return banned


_open_lists: weakref.WeakSet[BanList] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_open_lists):
        each._stale = True
        if each._opened is not None:
            each._opened.fresh_until = 0.0
        each._lock = threading.RLock()  # the thread that may have held it is not in this process


os.register_at_fork(after_in_child=_after_fork)
