"""Named sets of addresses in nfkeep's table, as a ban list uses them: one for hosts of each family, and one for the
networks of each prefix length in use, each with the rule that looks it up.

A kernel set of intervals would take all networks, but refuses those that overlap, and takes the end of one network and
the beginning of another for a third when it deletes (nft_set_rbtree.c). Here a network is one element, and is found,
renewed and deleted by its own key in the same time as a host.
"""

from __future__ import annotations

import errno
import logging
from array import array
from collections.abc import Iterator

import attrs

from nfkeep.bans.backend import Added, Timeouts
from nfkeep.bans.nft_rules import TABLE, lookup, read_label, set_label
from nfkeep.bans.values import Element, Fill, Kind
from nfkeep.errors import ListFullError, ListGoneError, NfkeepError
from nfkeep.nft.addresses import Guards
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.elements import ADD, DELETE, ElementSocket, HostPair, SetHandle, fail
from nfkeep.nft.lasting import contents, new_address_set, new_rule, read_set
from nfkeep.nft.messages import Message
from nfkeep.nft.replace import grow
from nfkeep.nft.ruleset import Jump, Verdict

LARGEST = 1 << 24
"""Elements: no set grows beyond, as all of it is memory of the kernel."""

_AT_ONCE = 1000  # in one transaction
_HOSTS = (Kind.HOST4, Kind.HOST6)
_log = logging.getLogger("nfkeep.bans")

# How an element that may be there already gets its new timeout: added again, where the kernel changes it then, or
# else so that it does not matter whether it is there. None until the first ban shows it; the same in all namespaces.
_IN_PLACE, _AGAIN = (ADD,), (ADD, DELETE, ADD)
_renewal: tuple[int, ...] | None = None


@attrs.define(slots=True)
class _Set:
    """A set as this process knows it: its handle, and how many may go in before its fill is looked at again."""

    label: str
    handle: SetHandle
    room: int = 0


class AddressSets:
    """The sets `PREFIX/v4`, `PREFIX/v6`, `PREFIX/net4/24`… that one chain looks up. For one thread at a time.

    `end`: what the rules of the chain do with a packet whose source was found. `list_name` is for errors.
    """

    def __init__(self, list_name: str, prefix: str, chain: str, end: Jump | Verdict, size: int) -> None:
        self.list_name = list_name
        self._prefix = prefix
        self._chain = chain
        self._end = end
        self.size = size
        self._elements = ElementSocket()
        self._rules = BatchSocket()
        self._sets: dict[str, _Set] = {}
        self._hosts = tuple(self._set(set_label(kind)) for kind in _HOSTS)
        self._pair = HostPair(*(each.handle for each in self._hosts))
        self._ban = self._pair.ban
        self._unseen = 0  # bans by ban_host, of either family, that are not yet taken from the room of the sets
        self._least_room = 0

    def set_message(self, label: str, number: int) -> Message:
        """Make the set of hosts that has this label; `number` tells the sets of one transaction apart."""
        return new_address_set(TABLE, self.set_name(label), _key_bytes(label), self.size, number)

    def rule(self, label: str) -> Message:
        """The rule that looks a set up."""
        comment, rule = lookup(self.set_name(label), label, self._end)
        return new_rule(TABLE, self._chain, rule, comment)

    def set_name(self, label: str) -> str:
        """The name of a set of this list."""
        return f"{self._prefix}/{label}"

    def labels(self) -> list[str]:
        """Of the sets that are there now."""
        start = f"{self._prefix}/"
        names = [name.removeprefix(start) for name in contents(self._rules, TABLE).sets if name.startswith(start)]
        return [label for label in names if read_label(label) is not None]

    def ban_host(self, text: bytes, guards: Guards, timeout_ms: int) -> bool:
        """As Backend.ban_host."""
        if _renewal is not _IN_PLACE or self._ban(text, len(text), guards.array, guards.count, timeout_ms) != 1:
            return False
        self._unseen += 1
        if self._unseen >= self._least_room:
            self._look_at_hosts()
        return True

    def unban_host(self, text: bytes) -> bool | None:
        """As Backend.unban_host; it may be that the set is not there either."""
        return self._pair.unban(text) or None

    def add(self, kind: Kind, keys: bytes | memoryview, timeouts: Timeouts, userdata: bytes) -> Added:
        """As Backend.add."""
        banned = 0
        refused: list[tuple[int, NfkeepError]] = []
        for label, part, positions in _by_set(kind, keys):
            length = _key_bytes(label)
            for first in range(0, len(positions), _AT_ONCE):
                here = positions[first : first + _AT_ONCE]
                some = timeouts if isinstance(timeouts, int) else array("Q", [timeouts[each] for each in here])
                try:
                    self._add_some(label, part[first * length : (first + _AT_ONCE) * length], some, userdata)
                    banned += len(here)
                except ListFullError as error:
                    refused += [(each, error) for each in here]
        return Added(banned, refused)

    def remove(self, kind: Kind, keys: bytes | memoryview) -> int:
        """As Backend.remove."""
        removed = 0
        for label, part, _ in _by_set(kind, keys):
            step = _AT_ONCE * _key_bytes(label)
            some_missing = len(part) < step  # of few each is looked for first, as a miss costs more than that
            for first in range(0, len(part), step):
                count, missing = self._remove_some(label, part[first : first + step], some_missing)
                some_missing = some_missing or missing
                removed += count
        return removed

    def get(self, kind: Kind, key: bytes) -> Element | None:
        """As Backend.get."""
        [(label, part, _)] = _by_set(kind, key)
        number, found = self._set(label).handle.get(bytes(part))
        if number == errno.ENOENT and (kind.is_network or self._exists(label)):
            return None
        if number:
            raise self._error(number, label)
        return None if found is None else Element(key, found.timeout_ms, found.expires_ms, found.comment)

    def elements(self, kind: Kind) -> Iterator[Element]:
        """As Backend.elements."""
        for label in self._labels_of(kind):
            number, found, changed = self._set(label).handle.dump()
            for _ in range(_DUMPS):
                if not changed or number:
                    break
                number, found, changed = self._set(label).handle.dump()
            if number:
                raise self._error(number, label)
            mask = _mask(label)
            # while others change the set, a dump may show an element twice
            for one in {each.key: each for each in found}.values() if changed else found:
                yield Element(one.key + mask, one.timeout_ms, one.expires_ms, one.comment)

    def count(self, kind: Kind) -> int:
        """How many elements there are."""
        total = 0
        for label in self._labels_of(kind):
            counted = self._set(label).handle.count()
            if counted < 0:
                raise self._error(-counted, label)
            total += counted
        return total

    def fills(self) -> Iterator[Fill]:
        """As Backend.fills."""
        for label in self.labels():
            used, size = self._fill(label)
            yield Fill(f"set {self.set_name(label)}", used, size)

    def flush(self) -> None:
        """As Backend.flush."""
        for label in {*self.labels(), *map(set_label, _HOSTS)}:
            if number := self._set(label).handle.flush():
                raise self._error(number, label)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._sets.clear()
        self._hosts = ()
        self._elements.close()
        self._rules.close()

    def _labels_of(self, kind: Kind) -> list[str]:
        if kind in _HOSTS:
            return [set_label(kind)]
        return [label for label in self.labels() if (read_label(label) or (None,))[0] is kind]

    def _add_some(self, label: str, keys: bytes | memoryview, timeouts: Timeouts, userdata: bytes) -> None:
        """Add what fits in a transaction. Grows the set, and makes that of a new prefix length."""
        known = self._set(label)
        for _ in range(_TRIES):
            learns = _renewal is None
            steps = _AGAIN if _renewal is None or userdata else _renewal
            number = known.handle.change(steps, keys, timeouts, userdata=userdata)
            if number == 0 and learns:
                _learn(known.handle, bytes(keys[: known.handle.key_bytes]), timeouts)
                continue  # once more, for what that has left behind
            if number == 0:
                known.room -= len(keys) // known.handle.key_bytes
                if known.room <= 0:
                    self._look_at_fill(label)
                return
            if number == errno.ENFILE:
                self._grow(label, len(keys) // known.handle.key_bytes)
            elif number == errno.ENOENT and label.startswith("net"):
                self._make(label)
            else:
                raise self._error(number, label)
        raise fail(errno.EBUSY, f"adding to the ban list {self.list_name}")

    def _remove_some(self, label: str, keys: bytes | memoryview, look_first: bool) -> tuple[int, bool]:
        """Remove what fits in a transaction; how many there were, and whether some were not there."""
        handle = self._set(label).handle
        missing = False
        for _ in range(_TRIES):
            if look_first:
                number, present = handle.present(keys)
                if number:
                    raise self._error(number, label)
                if not all(present):
                    length, missing = handle.key_bytes, True
                    keys = b"".join([keys[at * length : (at + 1) * length] for at, one in enumerate(present) if one])
            if not keys:
                if not label.startswith("net") and not self._exists(label):
                    raise ListGoneError(self.list_name)
                return 0, missing
            number = handle.change([DELETE], keys)
            if number == 0:
                return len(keys) // handle.key_bytes, missing
            if number != errno.ENOENT:
                raise self._error(number, label)
            look_first = True
        raise fail(errno.EBUSY, f"removing from the ban list {self.list_name}")

    def _look_at_hosts(self) -> None:
        for known in self._hosts:
            known.room -= self._unseen
            if known.room <= 0:
                self._look_at_fill(known.label)
        self._unseen = 0
        self._least_room = min(known.room for known in self._hosts)

    def _set(self, label: str) -> _Set:
        known = self._sets.get(label)
        if known is None:
            handle = SetHandle(self._elements, TABLE, self.set_name(label), _key_bytes(label))
            known = self._sets[label] = _Set(label, handle)
        return known

    def _exists(self, label: str) -> bool:
        return read_set(self._rules, TABLE, self.set_name(label)) is not None

    def _make(self, label: str) -> None:
        """Make the set for networks of a prefix length, together with its rule: where one is, the other is too."""
        size = max(_SMALLEST, self.size // 64)
        made = new_address_set(TABLE, self.set_name(label), _key_bytes(label), size, 1, exclusive=True)
        refusal = self._rules.send([made, self.rule(label)])
        if refusal is not None and refusal.errno == errno.ENOENT:
            raise ListGoneError(self.list_name)
        if refusal is not None and refusal.errno != errno.EEXIST:
            raise refusal.error()

    def _fill(self, label: str) -> tuple[int, int]:
        seen = read_set(self._rules, TABLE, self.set_name(label))
        if seen is None:
            raise ListGoneError(self.list_name)
        used = self._set(label).handle.count() if seen.used is None else seen.used
        if used < 0:
            raise self._error(-used, label)
        return used, seen.size or LARGEST

    def _look_at_fill(self, label: str) -> None:
        """Grow a set that is at 80 %, and set when to look again.

        Other processes add too, unseen: so this looks when half of the room is used, and the kernel's own refusal of
        an element too many is the last resort, not the only one.
        """
        used, size = self._fill(label)
        if used * 5 >= size * 4:
            _log.warning("ban list %s: %d of %d in the set %s", self.list_name, used, size, self.set_name(label))
            try:
                size = self._grow(label, 0)
            except ListFullError as error:
                _log.warning("%s", error)
        self._set(label).room = max((size * 4 // 5 - used) // 2, size // 64, 1)

    def _grow(self, label: str, more: int) -> int:
        """Make room for `more` at least; the new size."""
        used, size = self._fill(label)
        if used + more <= size and used * 5 < size * 4:
            return size  # another process was faster
        wanted = size * 2
        while wanted < LARGEST and wanted * 4 < (used + more) * 5:
            wanted *= 2
        if size >= LARGEST:
            raise ListFullError(self.list_name, size, "no set of a ban list grows beyond that")
        grown = grow(self._rules, TABLE, self._set(label).handle, self.set_name(label), wanted, self._chain, self.rule)
        _log.warning("ban list %s: the set %s takes %d now", self.list_name, self.set_name(label), grown)
        return grown

    def _error(self, number: int, label: str) -> NfkeepError:
        if number == errno.ENOENT:
            return ListGoneError(self.list_name)
        return fail(number, f"the set {self.set_name(label)} of the ban list {self.list_name}")


_TRIES = 100  # each time somebody else was in between
_DUMPS = 5
_SMALLEST = 1024
_TRIAL_MS = 1000  # longer than a tick, and no harm should this process die before the timeout is right again
_CENTURY_MS = 100 * 365 * 86_400_000


def _learn(handle: SetHandle, key: bytes, timeouts: Timeouts) -> None:
    """Find out, with an element that was just added, whether adding it again changes its timeout; it is wrong then.

    Kernels since 6.12 do that (nft_add_set_elem()); the others leave what is there alone, and say nothing.
    """
    global _renewal
    right = timeouts if isinstance(timeouts, int) else timeouts[0]
    trial = right + _TRIAL_MS if right else _CENTURY_MS
    handle.one(ADD, key, trial)
    _, found = handle.get(key)
    in_place = found is not None and abs(found.timeout_ms - trial) < _TRIAL_MS // 2
    _renewal = _IN_PLACE if in_place else _AGAIN


def _key_bytes(label: str) -> int:
    """How long an element of a set is: that of an address, also for networks."""
    return 16 if label.startswith(("v6", "net6")) else 4


def _by_set(kind: Kind, keys: bytes | memoryview) -> Iterator[tuple[str, bytes | memoryview, range | list[int]]]:
    """Keys by the set that they belong to: its label, its keys, and their positions in the row."""
    size = kind.key_bytes
    if not kind.is_network:
        yield set_label(kind), keys, range(len(keys) // size)
        return
    half = size // 2
    parts: dict[bytes, tuple[list[bytes], list[int]]] = {}
    for position in range(len(keys) // size):
        key = bytes(keys[position * size : (position + 1) * size])
        own, positions = parts.setdefault(key[half:], ([], []))
        own.append(key[:half])
        positions.append(position)
    for mask, (own, positions) in parts.items():
        yield set_label(kind, int.from_bytes(mask, "big").bit_count()), b"".join(own), positions


def _mask(label: str) -> bytes:
    """What a network's key has behind its address."""
    found = read_label(label)
    if found is None or not found[0].is_network:
        return b""
    kind, prefix = found
    bits = kind.key_bytes * 4
    return (((1 << prefix) - 1) << (bits - prefix)).to_bytes(bits // 8, "big")
