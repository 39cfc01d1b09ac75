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
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from nfkeep.bans.backend import Backend
from nfkeep.bans.bulk import by_kind, with_timeouts
from nfkeep.bans.choose import choose
from nfkeep.bans.given import (
    Given,
    GivenBan,
    ban_of,
    check_comment,
    ends_otherwise,
    milliseconds,
    read_address,
    read_item,
    read_policy,
    unsupported,
)
from nfkeep.bans.guards import NO_GUARDS, Guarded
from nfkeep.bans.kill import Killer
from nfkeep.bans.values import Address, Ban, Fill, Kind, Policy, address_of, check_name
from nfkeep.errors import (
    InvalidBanError,
    InvalidListError,
    ListGoneError,
    NfkeepError,
    RefusedBansError,
    UnsupportedError,
)
from nfkeep.nft.addresses import Guards

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

DEFAULT_SIZE = 131_072
_AT_ONCE = 10_000  # addresses looked at in one go
_FRESH_SECONDS = 1.0
_GATEWAY_MS = 7 * 86_400_000


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
        self._allow = [*allow]
        self._backend: Backend | None = None
        self._reason = ""
        self._plain_ms = 0  # of bans that say nothing
        self._longest_seconds = 0
        self._ban_host: Callable[[bytes, Guards, int], bool] = _the_long_way
        self._killer: Killer | None = None
        self._guarded: Guarded | None = None
        self._guards = NO_GUARDS
        self._fresh_until = 0.0
        self._stale = False
        self._lock = threading.RLock()
        _open_lists.add(self)

    @property
    def backend(self) -> str:
        """nft, ipset or recent; before `open` what was asked for."""
        return self._asked if self._backend is None else self._backend.kind_name

    @property
    def reason(self) -> str:
        """Why it is this backend, in a sentence; "" before `open`."""
        return self._reason

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
            if self._backend is None:
                backend, reason = choose(self.name, self._asked)
                self._check_timeout(backend)
            else:
                backend, reason = self._backend, self._reason
            allowed = [read_address(each) for each in self._allow]
            try:
                self._policy = backend.open(self._policy, self._size, self._list_timeout_ms(backend))
                for kind, key in allowed:
                    backend.allow(kind, key)
            except BaseException:
                if self._backend is None:
                    backend.close()
                raise
            self._backend, self._reason = backend, reason
            self._plain_ms = self._default_ms if backend.limits.timeout_ms else 0
            self._longest_seconds = backend.limits.timeout_ms // 1000
            self._look_around(backend)
        return self

    def exists(self) -> bool:
        """Whether the list is there; makes nothing."""
        with self._lock:
            if self._backend is not None:
                return self._backend.exists()
            return choose(self.name, self._asked)[0].exists()

    def in_force(self) -> bool:
        """Whether the list and all its rules are there; `open` mends what is not."""
        with self._lock:
            return self._ready().in_force()

    def ban(self, address: Given, timeout: float | None = None, *, comment: str = "", force: bool = False) -> None:
        """Ban a host or a network; it is in force for the next packet. If it is banned already, its timeout is renewed.

        A comment stays until another one is given, in nftables from Linux 6.12 on; before, the next ban takes it away.
        `timeout`: seconds; None is the list's own, math.inf for ever. Raises InvalidAddressError, InvalidBanError,
        AllowedAddressError (the allow list, this host itself, its gateways; without `force` the SSH peer and 0/0),
        ListFullError, ListGoneError.
        """
        with self._lock:
            backend = self._backend
            if backend is None or time.monotonic() > self._fresh_until:
                backend = self._ready()
                self._refresh(backend)
            if timeout is None:
                timeout_ms = self._plain_ms
            elif type(timeout) is int and 0 < timeout < self._longest_seconds:
                timeout_ms = timeout * 1000
            else:
                timeout_ms = self._timeout_ms(backend, timeout)
            if type(address) is str and not comment and not force and self._killer is None:
                text = address.encode("utf-8", "replace")
                if self._ban_host(text, self._guards, timeout_ms):
                    return
            kind, key = read_address(address, self._guards if not force else self._forced(), self._guarded)
            if kind not in backend.limits.kinds:
                raise unsupported(kind, backend)
            added = backend.add(kind, key, timeout_ms, check_comment(backend, comment))
            if added.refused:
                raise added.refused[0][1]
            if self._killer is not None:
                self._killer.kill([(kind, key)])

    def unban(self, address: Given) -> bool:
        """Lift one ban, of exactly this host or network; whether there was one. Raises as `ban` does."""
        with self._lock:
            backend = self._ready()
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
        rest = iter(bans)
        while chunk := list(itertools.islice(rest, _AT_ONCE)):
            with self._lock:
                backend = self._ready()
                if time.monotonic() > self._fresh_until:
                    self._refresh(backend)
                banned += self._ban_chunk(backend, chunk, timeout, force, refused)
        if refused:
            raise RefusedBansError(tuple(refused), banned)
        return banned

    def unban_many(self, addresses: Iterable[Given]) -> int:
        """Lift many bans; how many there were. RefusedBansError tells of what is no address, when all else is done."""
        refused: list[tuple[object, NfkeepError]] = []
        removed = 0
        rest = iter(addresses)
        while chunk := list(itertools.islice(rest, _AT_ONCE)):
            with self._lock:
                backend = self._ready()
                for kind, keys, _ in by_kind(chunk, NO_GUARDS, None, refused):
                    if kind in backend.limits.kinds:
                        removed += backend.remove(kind, keys)
        if refused:
            raise RefusedBansError(tuple(refused), removed)
        return removed

    def covering(self, address: Given) -> tuple[Ban, ...]:
        """The bans that a host or network falls under: its own, and those of networks that it lies in."""
        with self._lock:
            backend = self._ready()
            kind, key = read_address(address)
            own = backend.get(kind, key) if kind in backend.limits.kinds else None
            found = [] if own is None else [ban_of(kind, own)]
            nets = Kind.NET6 if kind & 1 else Kind.NET4
            if nets in backend.limits.kinds:
                half = nets.key_bytes // 2
                host = int.from_bytes(key[:half], "big")
                mask = int.from_bytes(key[half:] or b"\xff" * half, "big")
                for element in backend.elements(nets):
                    other = int.from_bytes(element.key[half:], "big")
                    inside = other & mask == other and host & other == int.from_bytes(element.key[:half], "big")
                    if inside and element.key != key:
                        found.append(ban_of(nets, element))
            return tuple(found)

    def __contains__(self, address: object) -> bool:
        """Whether exactly this host or network is in the list; `covering` also looks at networks around it."""
        with self._lock:
            backend = self._ready()
            kind, key = read_address(address)
            return kind in backend.limits.kinds and backend.get(kind, key) is not None

    def __len__(self) -> int:
        with self._lock:
            backend = self._ready()
            return sum(backend.count(kind) for kind in backend.limits.kinds)

    def __iter__(self) -> Iterator[Ban]:
        with self._lock:
            backend = self._ready()
            found = [(kind, list(backend.elements(kind))) for kind in sorted(backend.limits.kinds)]
        return (ban_of(kind, element) for kind, elements in found for element in elements)

    def __bool__(self) -> bool:
        return True  # a list without bans is a list

    def reconcile(self, wanted: Iterable[GivenBan]) -> Reconciled:
        """Make the list equal to `wanted` with the fewest changes.

        What is in both is left alone, unless a timeout is given that differs by more than a second from what is left.
        Raises InvalidAddressError, AllowedAddressError before anything is changed.
        """
        with self._lock:
            backend = self._ready()
            self._refresh(backend)
            goal: dict[tuple[Kind, bytes], tuple[Given, bool, float | None]] = {}
            for item in wanted:
                given, timeout, timed = read_item(item)
                goal[read_address(given, self._guards, self._guarded)] = given, timed, timeout
            gone: dict[Kind, list[bytes]] = {}
            renew = []
            for kind in backend.limits.kinds:
                for element in backend.elements(kind):
                    found = goal.pop((kind, element.key), None)
                    if found is None:
                        gone.setdefault(kind, []).append(element.key)
                    elif found[1] and ends_otherwise(element, self._timeout_ms(backend, found[2])):
                        renew.append((found[0], found[2]))
            removed = sum(backend.remove(kind, b"".join(keys)) for kind, keys in gone.items())
            self.ban_many(renew)
            self.ban_many([(given, timeout) if timed else given for given, timed, timeout in goal.values()])
            return Reconciled(len(goal), len(renew), removed)

    def flush(self) -> None:
        """Lift all bans; the list stays in force."""
        with self._lock:
            self._ready().flush()

    def fills(self) -> tuple[Fill, ...]:
        """How full each kernel object of the list is."""
        with self._lock:
            return self._ready().fills()

    def allowed(self) -> tuple[Address, ...]:
        """The allow list."""
        with self._lock:
            return tuple(address_of(*entry) for entry in self._ready().allowed())

    def allow(self, *addresses: Given) -> None:
        """Add hosts and networks to the allow list: no ban of any list has an effect on them from now on."""
        with self._lock:
            backend = self._ready()
            for kind, key in [read_address(each) for each in addresses]:
                backend.allow(kind, key)
            self._refresh(backend)

    def disallow(self, *addresses: Given) -> int:
        """Take hosts and networks out of the allow list; how many were in."""
        with self._lock:
            backend = self._ready()
            removed = sum(backend.disallow(*read_address(each)) for each in addresses)
            self._refresh(backend)
            return removed

    def close(self) -> None:
        """Let go of the kernel; every ban stays in force. Idempotent."""
        with self._lock:
            backend, self._backend = self._backend, None
            self._let_go()
            if backend is not None:
                backend.close()

    def remove(self) -> None:
        """Take the list down, bans, rules and all. Idempotent."""
        with self._lock:
            opened = self._backend
            backend = opened or choose(self.name, self._asked)[0]
            if opened is not None or backend.exists():
                if opened is None:
                    backend.open(None, self._size, None)
                backend.destroy()
            backend.close()
            self._backend = None
            self._let_go()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BanList {self.name} {self.backend}{'' if self._backend else ' closed'}>"

    def _ready(self) -> Backend:
        if self._backend is None:
            raise ListGoneError(self.name)
        if self._stale:  # sockets are not shared with the process that this one was forked from
            self._stale = False
            self._backend.close()
            self._let_go()
            self._backend.open(None, self._size, None)
            self._look_around(self._backend)
        return self._backend

    def _look_around(self, backend: Backend) -> None:
        """Look at what else there is in the network namespace that the list is in, and was opened in."""
        self._ban_host = backend.ban_host
        if self._guarded is None:
            self._guarded = Guarded()
        if self._killer is None and self.policy.kill:
            self._killer = Killer(self.policy.services)
        for kind, key in self._guarded.gateways():
            backend.except_for(kind, key, _GATEWAY_MS, "gateway")
        self._refresh(backend)

    def _let_go(self) -> None:
        guarded, self._guarded = self._guarded, None
        killer, self._killer = self._killer, None
        if guarded is not None:
            guarded.close()
        if killer is not None:
            killer.close()

    def _refresh(self, backend: Backend) -> None:
        """Read the allow list and the host's addresses again; others change them."""
        assert self._guarded is not None
        self._guarded.refresh(backend.allowed())
        self._guards = self._guarded.all
        self._fresh_until = time.monotonic() + _FRESH_SECONDS

    def _forced(self) -> Guards:
        assert self._guarded is not None
        return self._guarded.forced

    def _ban_chunk(
        self,
        backend: Backend,
        chunk: list[GivenBan],
        timeout: float | None,
        force: bool,
        refused: list[tuple[object, NfkeepError]],
    ) -> int:
        """Add to `refused`; how many are in force now."""
        default = self._timeout_ms(backend, timeout)
        givens, timeouts = with_timeouts(chunk, default, lambda own: self._timeout_ms(backend, own), refused)
        guards = self._forced() if force else self._guards
        banned = 0
        for kind, keys, positions in by_kind(givens, guards, self._guarded, refused):
            if kind not in backend.limits.kinds:
                refused += [(givens[at], unsupported(kind, backend)) for at in positions]
                continue
            each = default if timeouts is None else array("Q", [timeouts[at] for at in positions])
            added = backend.add(kind, keys, each)
            refused += [(givens[positions[at]], error) for at, error in added.refused]
            banned += added.banned
            if self._killer is not None:
                size = kind.key_bytes
                self._killer.kill([(kind, keys[at : at + size]) for at in range(0, len(keys), size)])
        return banned

    def _timeout_ms(self, backend: Backend, timeout: float | None) -> int:
        if timeout is None:
            return self._plain_ms
        wanted = milliseconds(timeout)
        if wanted and not backend.limits.timeout_ms:
            if backend.limits.list_timeout and wanted == self._default_ms:
                return 0
            raise UnsupportedError(
                f"{backend.kind_name} keeps no time for single bans: give the list a timeout, or use nft or ipset",
                "timeout of a ban",
            )
        if wanted > backend.limits.timeout_ms:
            raise InvalidBanError(f"{timeout:g} s is longer than {backend.kind_name} can keep a ban")
        return wanted

    def _list_timeout_ms(self, backend: Backend) -> int | None:
        """What the list as a whole is to have; None leaves what there is."""
        return self._default_ms if backend.limits.list_timeout and self.timeout is not None else None

    def _check_timeout(self, backend: Backend) -> None:
        if self.timeout is not None and not backend.limits.list_timeout:
            self._timeout_ms(backend, self.timeout)


def _the_long_way(text: bytes, guards: Guards, timeout_ms: int) -> bool:
    return False


_open_lists: weakref.WeakSet[BanList] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_open_lists):
        each._stale = True
        each._fresh_until = 0.0
        each._lock = threading.RLock()  # the thread that may have held it is not in this process


os.register_at_fork(after_in_child=_after_fork)
