"""A set that never refuses an element for want of room: it grows, and whoever changes it meanwhile loses nothing.

Each change goes to the set and then to its twin, a name that no set has but while one grows. So one message more, to
which the answer is that there is no such set, tells that nothing has to be waited for; there is no lock in this path.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence

from nfkeep.errors import CommitError, NfkeepError
from nfkeep.ipset import messages
from nfkeep.ipset.enlarge import destroy, enlarge, larger, recover, sole
from nfkeep.ipset.messages import MAX_NAME, Command, Header, Members, Pair
from nfkeep.ipset.refusals import Refused, concerns_all, refusal
from nfkeep.ipset.sets import Sets

LONGEST_NAME = MAX_NAME - 1
"""Characters of the name: the twin and the lock have one more."""

_TWIN, _LOCK = "+", "!"
_FULL_SHARE = 0.8
_SLICE = 8192  # items that are changed, and changed again if the set has grown meanwhile, in one go
_PATIENCE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 0.02


class GrowingSet:
    """One set by its name. Whoever changes it must do so through this class, or rarely.

    `warn` is told, in words for an administrator, when the set grows, or should and cannot.
    Every method raises CommitError with errno ENOENT where there is no such set, and as `Sets` does.
    """

    def __init__(self, sets: Sets, name: str, warn: Callable[[str], None]) -> None:
        self.name = name
        self._sets = sets
        self._warn = warn
        self._twin = name + _TWIN
        self._pairs: dict[int, Pair] = {}
        self._size = 0  # when last looked at; 0: never
        self._room = 0  # so many may be added until it is looked at again

    def create(self, header: Header) -> bool:
        """Make the set, as described by `header`; False if there is one. Ends what a killed process has begun."""
        made = self._sets.create(header)
        self.settle()
        return made

    def header(self) -> Header | None:
        """What the kernel tells of the set; None if there is none."""
        return self._sets.header(self.name)

    def fill(self) -> tuple[int, int]:
        """How many are in, and how many it can take."""
        header = self._present()
        return self._used(header), header.size

    def members(self) -> Members:
        """All that is in."""
        found = self._sets.members(self.name)
        if found is None:
            raise self._gone()
        return found

    def find(self, identity: bytes) -> tuple[int, bytes] | None:
        """One of the members; that it is not there is known at once, for all else the kernel has to list the set."""
        there = self._sets.test(self.name, identity)
        if there is None:
            raise self._gone()
        return self._sets.find(self.name, identity) if there else None

    def add(self, items: Sequence[bytes]) -> dict[int, int]:
        """Add items, or renew them; the errno of those, by index, that cannot be in such a set.

        When this returns all others are in, and stay in. Raises CommitError (FULL, ENOMEM) if there is no room for the
        set to grow: some may be in.
        """
        refused: dict[int, int] = {}
        if len(items) == 1 and self._add_one(items[0]):
            return refused
        for at in range(0, len(items), _SLICE):
            failed = self._add(items[at : at + _SLICE], len(items) - at)
            refused.update((at + index, number) for index, number in failed.items())
        self._room -= len(items)
        if self._room < 0:
            self._look()
        return refused

    def remove(self, items: Sequence[bytes]) -> int:
        """Take items out (their identities are enough); how many were in."""
        missing = 0
        for at in range(0, len(items), _SLICE):
            missing += self._remove(items[at : at + _SLICE], exclusive=True)
        return len(items) - missing

    def flush(self) -> None:
        """Take all out."""
        while True:
            change = self._sets.flush(self.name, self._twin)
            self._raise(change.failed)
            if not change.twin:
                return
            self.settle()

    def settle(self) -> None:
        """Wait until the set does not grow; CommitError if that has no end. What a killed process began is ended."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        pause = 0.0005
        while self._sets.has(self._twin):
            with sole(self._sets, self.name + _LOCK) as alone:
                if alone:
                    self._recover()
                    continue
            if time.monotonic() >= deadline:
                raise CommitError(
                    f"the set {self.name} has been growing for more than {_PATIENCE_SECONDS:.0f} s by now; "
                    f"find out which process does that, or destroy {self._twin} and {self.name}{_LOCK}",
                    applied=False,
                    errno=errno.EBUSY,
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def destroy(self) -> None:
        """Take the set down, also while it grows. CommitError (BUSY), with no element left in it, if a rule uses it."""
        header = self.header()
        if header is not None:
            self._sets.flush(self.name, self._twin)
            if header.references:
                raise refusal(Refused.BUSY, f"destroying the set {self.name}")
            destroy(self._sets, self.name)
        self.settle()
        with sole(self._sets, self.name + _LOCK):
            pass  # one that a killed process has left is gone now

    def _add_one(self, item: bytes) -> bool:
        """Add one item, with nothing to spare; whether that was all there is to do."""
        size = len(item)
        pair = self._pairs.get(size)
        if pair is None:
            pair = messages.pair(self._sets.protocol, Command.ADD, False, self.name, self._twin, size)
            self._pairs[size] = pair
        number, twin = self._sets.channel.pair(pair, item)
        if number or twin != errno.ENOENT:
            return False
        self._room -= 1
        if self._room < 0:
            self._look()
        return True

    def _add(self, items: Sequence[bytes], need: int) -> dict[int, int]:
        """Add all that can be in such a set, whatever it takes; `need`: how many more are to be added in all."""
        change = self._sets.change(Command.ADD, self.name, self._twin, items, exclusive=False)
        if change.twin:
            self.settle()
            self._add([item for index, item in enumerate(items) if index not in change.failed], 0)
        if not change.failed:
            return change.failed
        full = [index for index, number in change.failed.items() if number == Refused.FULL]
        failed = {index: number for index, number in change.failed.items() if number != Refused.FULL}
        self._raise(failed)
        if full:
            self._make_room(max(need, len(full)))
            rest = self._add([items[index] for index in full], need)
            failed.update((full[index], number) for index, number in rest.items())
        return failed

    def _remove(self, items: Sequence[bytes], *, exclusive: bool) -> int:
        change = self._sets.change(Command.DEL, self.name, self._twin, items, exclusive=exclusive)
        self._raise(change.failed)
        if change.twin:
            self.settle()
            self._remove(items, exclusive=False)
        return len(change.already)

    def _look(self) -> None:
        """See how full it is, and let it grow while there still is some room."""
        header = self._present()
        self._size, used = header.size, self._used(header)
        if used >= header.size * _FULL_SHARE:
            try:
                self._make_room(0)
            except NfkeepError as error:
                self._warn(f"the set {self.name} has {used} of at most {header.size} elements and cannot grow: {error}")
                self._room = header.size // 16
                return
            header = self._present()
            used = self._used(header)
        # looking takes time in proportion to the size; others may be filling it, too
        self._room = max((int(header.size * _FULL_SHARE) - used) // 4, header.size // 64)

    def _make_room(self, need: int) -> None:
        """Let the set grow, unless another process has done so since it was looked at."""
        self.settle()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with sole(self._sets, self.name + _LOCK) as alone:
                if alone:
                    self._recover()
                header = self._present()
                if header.size != self._size:
                    self._size = header.size
                    return
                if alone:
                    self._grow(header, need)
                    return
            if time.monotonic() >= deadline:
                raise refusal(errno.EBUSY, f"enlarging the set {self.name}")
            time.sleep(0.001)
            self.settle()

    def _recover(self) -> None:
        missing = recover(self._sets, self.name, self._twin)
        if missing:
            self._grow(self._present(), len(missing), missing)

    def _grow(self, header: Header, need: int, more: Sequence[bytes] = ()) -> None:
        """Only inside `sole`."""
        while True:
            used = self._used(header)
            size = larger(header, used, need)
            if size <= header.size:
                raise refusal(Refused.FULL, f"enlarging the set {self.name}")
            self._warn(f"the set {self.name} has {used} of at most {header.size} elements; it grows to {size}")
            more = enlarge(self._sets, self.name, self._twin, size, more)
            self._size = size
            if not more:
                return
            header, need = self._present(), len(more)

    def _present(self) -> Header:
        header = self.header()
        if header is None:
            raise self._gone()
        return header

    def _used(self, header: Header) -> int:
        return len(self.members()) if header.used is None else header.used

    def _gone(self) -> NfkeepError:
        return refusal(errno.ENOENT, f"using the set {self.name}")

    def _raise(self, failed: dict[int, int]) -> None:
        """What concerns all items is an error; what is wrong with one of them is the caller's to say."""
        for number in filter(concerns_all, failed.values()):
            raise refusal(number, f"changing the set {self.name}")
