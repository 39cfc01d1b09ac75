"""ipset's commands, each as one method: sets by name in one network namespace, over one netlink socket.

What is not there is an answer, not an error; everything else that the kernel refuses is raised.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.ipset import messages
from nfkeep.ipset.channel import Channel
from nfkeep.ipset.messages import NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, Command, Header, Members
from nfkeep.ipset.refusals import Refused, concerns_all, refusal
from nfkeep.model import Family

_NOBODY = "nfkeep+"  # no set has this name
_PIPELINED = 128  # messages whose refusals fit into the smallest buffer that a socket starts with
_COMMENTS_SINCE = {"hash:ip": 2, "hash:net": 4}  # the revision; each is followed by others that only add


@attrs.frozen(slots=True)
class Change:
    """What came of adding or deleting items.

    `already`: those, by index, that were there before (of added ones) or were not (of deleted ones), and so are as
    they were; only of an exclusive change. `failed`: the errno of each that was refused. `twin`: whether there was a
    set of the twin's name after the last item had gone in.
    """

    already: Sequence[int] = ()
    failed: dict[int, int] = attrs.field(factory=dict)
    twin: bool = False

    def followed_by(self, other: Change, at: int) -> Change:
        """What came of both; the items of `other` are numbered from `at` on."""
        already = [*self.already, *(at + index for index in other.already)]
        failed = self.failed | {at + index: number for index, number in other.failed.items()}
        return Change(already, failed, self.twin or other.twin)


class Sets:
    """The sets in the network namespace that is current when this is made; for one thread at a time.

    Every method raises PermissionDeniedError, UnsupportedError where the kernel has no ipset, CommitError.
    """

    def __init__(self) -> None:
        self.channel = Channel()
        try:
            self.protocol = self._negotiate()
        except BaseException:
            self.channel.close()
            raise
        """The version of ipset's protocol that both sides speak: 6 or 7."""

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.channel.close()

    def describe(self, name: str, type_name: str, family: Family, size: int) -> Header:
        """A set to `create`: with timeouts (none by default) and comments.

        The revision is the lowest that can do this, so that old `ipset` commands can list the set; UnsupportedError if
        the kernel has none. The table is wide enough that the kernel has no reason to rebuild it during an add.
        """
        sequence = self.channel.next(1)
        question = messages.type_question(self.protocol, type_name, family)
        answer = self.channel.ask(messages.frame(Command.TYPE, 0, sequence, question), sequence)
        if isinstance(answer, int):
            raise refusal(answer, f"looking for the type {type_name}")
        low, high = messages.revisions(answer)
        revision = max(low, _COMMENTS_SINCE[type_name])
        if revision > high:
            raise UnsupportedError(f"the kernel's {type_name} has no comments", f"ipset: {type_name}")
        return Header(
            name, type_name, family, revision, size, 0, hash_size(size), 0, timeout=0, flags=messages.WITH_COMMENT
        )

    def create(self, header: Header) -> bool:
        """Make a set; False if there is one of that name."""
        number = self._command(Command.CREATE, NLM_F_EXCL, header.name, messages.creation(header))
        return self._unless(number, errno.EEXIST, f"making the set {header.name}")

    def destroy(self, name: str) -> bool:
        """Take a set down with all its elements; False if there is none. CommitError (BUSY) while a rule uses it."""
        return self._unless(self._command(Command.DESTROY, NLM_F_EXCL, name), errno.ENOENT, f"destroying {name}")

    def swap(self, name: str, other: str) -> None:
        """Let each of two sets have the other's name, and the rules that go with it, at once.

        CommitError: EBUSY while a program lists one of them, ENOENT or NO_SECOND if there is none.
        """
        number = self._command(Command.SWAP, 0, name, messages.other_name(other))
        if number:
            raise refusal(number, f"swapping {name} and {other}")

    def header(self, name: str) -> Header | None:
        """What the kernel tells of a set; None if there is none. It counts the elements, in time for each."""
        answers = self._list(name, messages.header_only())
        return next((each for each in map(messages.header, answers or ()) if each is not None), None)

    def has(self, name: str) -> bool:
        """Whether there is a set of that name."""
        sequence = self.channel.next(1)
        body = messages.target(self.protocol, name)
        answer = self.channel.ask(messages.frame(Command.HEADER, 0, sequence, body), sequence)
        return not isinstance(answer, int) or self._unless(answer, errno.ENOENT, f"looking for the set {name}")

    def test(self, name: str, identity: bytes) -> bool | None:
        """Whether an element is in, None without the set. A network of one address is in if any network has it."""
        number = self._command(Command.TEST, 0, name, messages.one(identity))
        if number == errno.ENOENT:
            return None
        return self._unless(number, Refused.EXISTS, f"looking into the set {name}")

    def members(self, name: str) -> Members | None:
        """All elements; None without the set."""
        answers = self._list(name, b"")
        return None if answers is None else messages.members(answers)

    def find(self, name: str, identity: bytes) -> tuple[int, bytes] | None:
        """One element, as among `members`. For this the kernel has to list the set."""
        address, _ = messages.address_of(identity)
        answers = [answer for answer in self._list(name, b"") or () if address in answer]
        return messages.members(answers).get(identity)

    def flush(self, name: str, twin: str) -> Change:
        """Take all elements out of a set, and of its twin if there is one."""
        first = self.channel.next(2)
        body, other = messages.target(self.protocol, name), messages.target(self.protocol, twin)
        data = messages.frame(Command.FLUSH, 0, first, body)
        errors = self.channel.errors(
            data + messages.frame(Command.FLUSH, NLM_F_ACK, first + 1, other), first, first + 1
        )
        number = errors[first][0] if first in errors else 0
        return Change(failed={0: number} if number else {}, twin=errors[first + 1][0] != errno.ENOENT)

    def change(
        self, command: Command, name: str, twin: str | None, items: Sequence[bytes], *, exclusive: bool
    ) -> Change:
        """Add (or renew), or delete, items; and the same in the twin if there is one, whatever comes of it.

        Exclusive: an item that is there already is not renewed, and one that is not there to be deleted is reported.
        After the first item for which there is no room none is tried.
        """
        if len(items) == 1:
            return self._change_one(command, name, twin, items[0], exclusive=exclusive)
        result = Change()
        for at in range(0, len(items), step := messages.most(items)):
            part = self._change_many(command, name, twin, items[at : at + step], exclusive=exclusive)
            result = result.followed_by(part, at)
            hopeless = next(filter(concerns_all, part.failed.values()), 0)
            if hopeless:
                rest = range(min(at + step, len(items)), len(items))
                return attrs.evolve(result, failed=result.failed | dict.fromkeys(rest, hopeless))
        return result

    def _change_one(self, command: Command, name: str, twin: str | None, item: bytes, *, exclusive: bool) -> Change:
        """Two messages and, as there is no twin but while the set grows, one answer: ENOENT for the second."""
        pair = messages.pair(self.protocol, command, exclusive, name, twin or _NOBODY, len(item))
        number, second = self.channel.pair(pair, item)
        seen = second != errno.ENOENT
        if number == Refused.EXISTS and exclusive:
            return Change([0], twin=seen)
        return Change(failed={0: number} if number else {}, twin=seen)

    def _change_many(
        self, command: Command, name: str, twin: str | None, items: Sequence[bytes], *, exclusive: bool
    ) -> Change:
        """As many as one message takes. The kernel stops at the first one that it refuses, and tells its line."""
        first = self.channel.next(2)
        target, body = messages.target(self.protocol, name), messages.many(items)
        data = messages.frame(command, NLM_F_EXCL if exclusive else 0, first, target + body)
        data += messages.frame(command, NLM_F_ACK, first + 1, messages.target(self.protocol, twin or _NOBODY) + body)
        errors = self.channel.errors(data, first, first + 1)
        seen = errors[first + 1][0] != errno.ENOENT
        if first not in errors:
            return Change(twin=seen)
        number, message = errors[first]
        stopped = messages.failed_line(message, len(target)) - 1
        if stopped < 0 or concerns_all(number):
            return Change(failed=dict.fromkeys(range(max(stopped, 0), len(items)), number), twin=seen)
        result = Change([stopped], twin=seen) if number == Refused.EXISTS else Change((), {stopped: number}, seen)
        for at in range(stopped + 1, len(items), _PIPELINED):
            part = self._change_each(command, name, twin, items[at : at + _PIPELINED], exclusive=exclusive)
            result = result.followed_by(part, at)
        return result

    def _change_each(
        self, command: Command, name: str, twin: str | None, items: Sequence[bytes], *, exclusive: bool
    ) -> Change:
        """A message for each item, sent in one go, so that one that is refused does not keep the others from it."""
        first = self.channel.next(len(items) + 1)
        last = first + len(items)
        target, flags = messages.target(self.protocol, name), NLM_F_EXCL if exclusive else 0
        data = [
            messages.frame(command, flags, first + index, target + messages.one(item))
            for index, item in enumerate(items)
        ]
        other = messages.target(self.protocol, twin or _NOBODY) + messages.many(items)
        errors = self.channel.errors(b"".join(data) + messages.frame(command, NLM_F_ACK, last, other), first, last)
        refused = {sequence - first: number for sequence, (number, _) in errors.items() if sequence != last}
        already = [index for index, number in refused.items() if number == Refused.EXISTS]
        failed = {index: number for index, number in refused.items() if number != Refused.EXISTS}
        return Change(already, failed, errors[last][0] != errno.ENOENT)

    def _negotiate(self) -> int:
        sequence = self.channel.next(1)
        body = messages.version(messages.MAX_PROTOCOL)
        answer = self.channel.ask(messages.frame(Command.PROTOCOL, 0, sequence, body), sequence)
        if isinstance(answer, int):
            # nfnetlink calls what it does not know invalid
            raise refusal(errno.EOPNOTSUPP if answer == errno.EINVAL else answer, "looking for ipset")
        low, high = messages.versions(answer)
        if low > messages.MAX_PROTOCOL:
            raise UnsupportedError(f"the kernel's ipset speaks versions {low} to {high} only", "ipset")
        return min(high, messages.MAX_PROTOCOL)

    def _list(self, name: str, more: bytes) -> list[bytes] | None:
        sequence = self.channel.next(1)
        body = messages.target(self.protocol, name) + more
        found = self.channel.dump(messages.frame(Command.LIST, NLM_F_DUMP, sequence, body), sequence)
        if isinstance(found, list):
            return found
        self._unless(found, errno.ENOENT, f"listing the set {name}")
        return None

    def _command(self, command: Command, flags: int, name: str, more: bytes = b"") -> int:
        """Its errno, 0 if it was done."""
        sequence = self.channel.next(1)
        body = messages.target(self.protocol, name) + more
        answer = self.channel.ask(messages.frame(command, NLM_F_ACK | flags, sequence, body), sequence)
        return answer if isinstance(answer, int) else 0

    @staticmethod
    def _unless(number: int, expected: int, doing: str) -> bool:
        """True if it was done, False for the expected errno; others are raised."""
        if number not in (0, expected):
            raise refusal(number, doing)
        return not number


def hash_size(size: int) -> int:
    """How wide the table of a set for `size` elements is to be made.

    The kernel rebuilds a table twice as wide when a bucket has more than twelve, and the add that meets this waits for
    it. With two in each on average that does not happen. Eight bytes for each bucket are taken at once, so that there
    is a limit.
    """
    return 1 << min(max((size // 2 - 1).bit_length(), 6), 20)
