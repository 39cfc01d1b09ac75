"""A set that takes more elements than before, in the place of the old one, with all that is in it.

Kernels since 6.5 change the size of the set that is there. On older ones a larger set of the same name takes its place
within one transaction, elements, remaining times and all, so that every packet meets either the one or the other.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Sequence

from nfkeep.errors import CommitError
from nfkeep.nft.batch import BatchSocket
from nfkeep.nft.elements import Found, SetHandle, fail
from nfkeep.nft.lasting import SeenSet, contents, delete_rules, delete_set, new_address_set, read_set, resize_set
from nfkeep.nft.messages import NFT_MSG_NEWSETELEM, NLM_F_CREATE, Message
from nfkeep.nft.wire import attribute, data_value, nest, string

_TRIES = 50
_AT_ONCE = 500  # in one message


def grow(
    changing: BatchSocket,
    table: str,
    handle: SetHandle,
    name: str,
    size: int,
    chain: str,
    rule: Callable[[str], Message],
) -> int:
    """Let the set take `size` elements, and return how many it takes now.

    `chain` has the one rule that uses the set; its comment is the end of the set's name, and `rule` of that makes it
    again. Where somebody else was faster, the set stays as large as they made it. Raises CommitError where so much
    else is changed meanwhile that nothing comes of it; then all is as before.
    """
    seen = _seen(changing, table, name)
    if seen.size >= size:
        return seen.size
    changing.run([resize_set(table, name, seen, size)])
    after = read_set(changing, table, name)
    if after is not None and after.size != seen.size:
        return after.size
    return swap(changing, table, handle, name, size, chain, rule)


def swap(
    changing: BatchSocket,
    table: str,
    handle: SetHandle,
    name: str,
    size: int,
    chain: str,
    rule: Callable[[str], Message],
) -> int:
    """The same by a new set, for kernels that cannot change the old one's size."""
    for _ in range(_TRIES):
        generation = changing.generation()
        there = _seen(changing, table, name).size
        if there >= size:
            return there  # a smaller set might not take what is in this one
        number, found, _ = handle.dump()
        if number:
            raise fail(number, f"the set {name}")
        users = [
            one
            for one in contents(changing, table).rules.get(chain, ())
            if one.comment and name.endswith(f"/{one.comment}")
        ]
        messages = [delete_rules(table, chain, one.handle) for one in users]
        messages += [delete_set(table, name), new_address_set(table, name, handle.key_bytes, size, 1, exclusive=True)]
        messages += _elements(table, name, found)
        messages += [rule(one.comment) for one in users]
        refusal = changing.send(messages, generation)
        if refusal is None:
            return size
        if refusal.errno != errno.ERESTART:
            raise refusal.error()
    raise CommitError(
        f"the set {name} is full, and everything changes too fast for a larger one to take its place",
        applied=False,
        errno=errno.ERESTART,
    )


def _seen(changing: BatchSocket, table: str, name: str) -> SeenSet:
    seen = read_set(changing, table, name)
    if seen is None:
        raise fail(errno.ENOENT, f"the set {name}")
    return seen


def _elements(table: str, name: str, found: Sequence[Found]) -> Iterator[Message]:
    where = string(1, table) + string(2, name)
    for first in range(0, len(found), _AT_ONCE):
        listed = b"".join([nest(1, _element(one)) for one in found[first : first + _AT_ONCE]])
        yield Message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, where + nest(3, listed), f"the elements of the set {name}")


def _element(one: Found) -> bytes:
    """NFTA_SET_ELEM_*."""
    parts = data_value(1, one.key)
    if one.timeout_ms:
        parts += attribute(4, struct.pack("!Q", one.timeout_ms)) + attribute(5, struct.pack("!Q", one.expires_ms or 1))
    if one.comment:
        text = one.comment.encode() + b"\0"
        parts += attribute(6, bytes([0, len(text)]) + text)
    return parts
