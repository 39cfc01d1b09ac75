"""Makes a set larger while others use it: a larger twin gets a copy of it, and then its name, at one stroke.

While a twin exists, whoever changes the set changes the twin too, waits until it is gone, and makes his change again
(`nfkeep.ipset.growing`). So the twin lacks nothing of theirs when it takes over; what programs that know nothing of
this changed between copy and swap is carried over after it, from the old set, which by then has the twin's name.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from nfkeep.errors import CommitError
from nfkeep.ipset.messages import Command, Header, Members, item
from nfkeep.ipset.refusals import Refused, refusal
from nfkeep.ipset.sets import Sets, hash_size
from nfkeep.model import Family

_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.001


@contextmanager
def sole(sets: Sets, lock: str) -> Iterator[bool]:
    """Be the only one who enlarges a set: True inside, or False if another process, which lives, does so.

    The lock is a set of that name, which only one can make; its size is the port number of a netlink socket that its
    maker has bound. So whoever can bind that port knows that the maker is dead, and is its one heir. The lock is the
    same for all processes of the network namespace, whatever files they see.
    """
    holder = _acquire(sets, lock)
    if holder is None:
        yield False
        return
    try:
        yield True
    finally:
        try:
            destroy(sets, lock)
        finally:
            holder.close()


def _acquire(sets: Sets, lock: str) -> socket.socket | None:
    # the kernel itself gives out process ids and negative numbers: netlink_autobind()
    port = 0x40000000 | int.from_bytes(os.urandom(4), "big") >> 2
    own = sets.channel.sibling(port)
    if own is None:
        return None
    wanted = attrs.evolve(sets.describe(lock, "hash:ip", Family.IPV4, port), hash_size=64, timeout=None)
    if sets.create(wanted):
        return own
    own.close()
    found = sets.header(lock)
    if found is None:
        return None
    inherited = sets.channel.sibling(found.size)
    if inherited is None:
        return None
    if sets.header(lock) == found:
        return inherited
    inherited.close()
    return None


def recover(sets: Sets, name: str, twin: str) -> list[bytes]:
    """Bring to an end what another process began and, killed in the midst of it, did not end; only inside `sole`.

    What is returned are items that belong into the set, but for which there is no room.
    """
    left, current = sets.header(twin), sets.header(name)
    if left is None:
        return []
    missing: list[bytes] = []
    if current is not None and left.size < current.size:  # they had been swapped
        items = [item(*member, 1) for member in (sets.members(twin) or {}).items()]
        missing = _add(sets, name, items, exclusive=True)
    destroy(sets, twin)
    return missing


def enlarge(sets: Sets, name: str, twin: str, size: int, more: Sequence[bytes] = ()) -> list[bytes]:
    """Give the set that size, which is larger, and put `more` items into it; only inside `sole`.

    Not for a moment is an element out of the set. Each lasts up to a second longer than it would have. What is returned
    are items for which there is no room even so. Raises CommitError: ENOENT if there is no such set (any more), EBUSY
    if another program lists it and does not stop.
    """
    current = sets.header(name)
    if current is None:
        raise refusal(errno.ENOENT, f"enlarging the set {name}")
    sets.create(attrs.evolve(current, name=twin, size=size, hash_size=hash_size(size)))
    swapped = False
    try:
        copied = _Snapshot.take(sets, name)
        missing = _add(sets, twin, [item(*member, 1) for member in copied.members.items()], exclusive=True)
        missing += _add(sets, twin, more, exclusive=True)
        _patiently(lambda: sets.swap(name, twin), errno.EBUSY)
        swapped = True
        missing = _add(sets, name, missing, exclusive=True) + _reconcile(sets, name, twin, copied)
    finally:
        if not swapped:
            destroy(sets, twin)
    destroy(sets, twin)
    return missing


def destroy(sets: Sets, name: str) -> None:
    """Destroy a set, as soon as no program lists it; none is fine."""
    _patiently(lambda: sets.destroy(name), Refused.BUSY)


def larger(header: Header, used: int, need: int) -> int:
    """A size, at least twice that of the set, of which what is in it and what is to come fill no more than half."""
    size = header.size * 2
    while size < 2 * (used + need):
        size *= 2
    return min(size, 0xFFFFFFFF)


@attrs.frozen(slots=True)
class _Snapshot:
    """All members of a set, and between which two moments they were read, in seconds."""

    members: Members
    begun: float
    ended: float

    @classmethod
    def take(cls, sets: Sets, name: str) -> _Snapshot:
        begun = time.monotonic()
        found = sets.members(name)
        ended = time.monotonic()
        if found is None:
            raise refusal(errno.ENOENT, f"copying the set {name}")
        return cls(found, begun, ended)


def _reconcile(sets: Sets, name: str, old: str, before: _Snapshot) -> list[bytes]:
    """Make in `name` the changes that the old set has seen since it was copied; what there is no room for."""
    after = _Snapshot.take(sets, old)
    least, most = after.begun - before.ended, after.ended - before.begun
    added, renewed = [], []
    for identity, (seconds, rest) in after.members.items():
        was = before.members.get(identity)
        if was is None:
            added.append(item(identity, (seconds, rest), 1))
        elif was[1] != rest or not _only_older(was[0], seconds, least, most):
            renewed.append(item(identity, (seconds, rest), 1))
    # one that may have ended by itself is left to end by itself: it may have been added anew
    deleted = [
        identity
        for identity, (seconds, _) in before.members.items()
        if identity not in after.members and (not seconds or seconds > most + 1)
    ]
    sets.change(Command.DEL, name, None, deleted, exclusive=False)
    return _add(sets, name, added, exclusive=True) + _add(sets, name, renewed, exclusive=False)


def _only_older(before: int, after: int, least: float, most: float) -> bool:
    """Whether nobody has set the timeout since: seconds left then and now, rounded down by the kernel, but to no 0."""
    if not before or not after:
        return before == after
    return before - most - 1 <= after <= max(before + 1 - least, 1)


def _add(sets: Sets, name: str, items: Sequence[bytes], *, exclusive: bool) -> list[bytes]:
    """Add items; those for which there is no room."""
    change = sets.change(Command.ADD, name, None, items, exclusive=exclusive)
    for number in change.failed.values():
        if number != Refused.FULL:
            raise refusal(number, f"copying to the set {name}")
    return [items[index] for index in change.failed]


def _patiently(act: Callable[[], object], busy: int) -> None:
    """Act as soon as no program lists the set."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            act()
            return
        except CommitError as error:
            if error.errno != busy or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE_SECONDS)
