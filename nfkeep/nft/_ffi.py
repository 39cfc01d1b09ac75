"""The one door to the compiled part of the nft world: csrc/nft_api.h, call by call.

Each handle owns its C memory and has `close()`. Calls that change a set return 0 or an errno, which is for the caller
to judge: there an element that is missing may be no error at all.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.nft._nft import ffi as _c_ffi
from nfkeep.nft._nft import lib as _c_lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ffi: Any = _c_ffi
lib: Any = _c_lib

ADD, DELETE = int(lib.NFK_ADD), int(lib.NFK_DELETE)
NFPROTO_INET = 1
KEY_BYTES = (4, 16, 8, 32)
REASONS = {
    int(lib.NFK_REFUSED_TEXT): "this is no IPv4 or IPv6 address, nor a network in the form ADDRESS/BITS",
    int(lib.NFK_REFUSED_HOST_BITS): "a network has no bits set behind its prefix",
}
_INET = 1  # NFPROTO_INET
IN_GUARD, COVERS_GUARD = int(lib.NFK_REFUSED_IN_GUARD), int(lib.NFK_REFUSED_COVERS_GUARD)


def fail(number: int, doing: str) -> NfkeepError:
    """The error for an errno that has no meaning of its own where it came: to be raised by the caller."""
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(doing, "root, or the capability CAP_NET_ADMIN")
    message = f"{doing}: {os.strerror(number)}"
    if number in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
        return UnsupportedError(message, "nf_tables")
    return NfkeepError(message)


class Guards:
    """Addresses that speak against others: of each a kind (0 IPv4, 1 IPv6), its prefix and its bytes.

    `covered` ones refuse every network that they lie in; the others refuse all that lies in them.
    """

    __slots__ = ("array", "count")

    def __init__(self, guards: Sequence[tuple[int, int, bytes, bool]]) -> None:
        self.count = len(guards)
        self.array = ffi.new("nfk_guard[]", max(1, self.count))
        for entry, (kind, prefix, address, covered) in zip(self.array, guards, strict=False):
            entry.kind, entry.prefix, entry.covered = kind, prefix, covered
            ffi.memmove(entry.address, address, len(address))


_Key = ffi.typeof("uint8_t[32]")
_ELEMENT = struct.Struct("=40sQQII")  # nfk_element
assert _ELEMENT.size == ffi.sizeof("nfk_element")


def parse(text: bytes, guards: Guards) -> tuple[int, bytes]:
    """Kind and key of an address; minus the reason, and no key, if there is one against it."""
    key = ffi.new(_Key)
    kind = lib.nfk_address(text, len(text), guards.array, guards.count, key)
    return kind, b"" if kind < 0 else ffi.buffer(key, KEY_BYTES[kind])[:]


@attrs.frozen(slots=True, eq=False)
class Sorted:
    """Addresses by kind: their keys in a row, none twice, and the last line of each. `refused`: lines, reasons."""

    keys: tuple[memoryview, ...]
    positions: tuple[array[int], ...]
    refused: tuple[tuple[int, int], ...]
    lines: int


def sort(text: bytes, count: int, guards: Guards) -> Sorted:
    """Kinds and keys of `count` lines of addresses. If there are more lines, `lines` tells."""
    keys = [bytearray(count * size) for size in KEY_BYTES]
    positions = [array("I", bytes(4 * count)) for _ in KEY_BYTES]
    refused, reasons = ffi.new("uint32_t[]", count), ffi.new("uint8_t[]", count)
    out = ffi.new("nfk_sorted *")
    out.refused, out.reasons = refused, reasons
    held = []  # from_buffer() keeps the memory alive only as long as its result
    for kind in range(4):
        held += [ffi.from_buffer("uint8_t[]", keys[kind]), ffi.from_buffer("uint32_t[]", positions[kind])]
        out.keys[kind], out.positions[kind] = held[-2], held[-1]
    lines = lib.nfk_addresses(text, len(text), count, guards.array, guards.count, out)
    if lines < 0:
        raise fail(-lines, "reading addresses")
    counts = list(out.counts)
    return Sorted(
        tuple(memoryview(keys[kind])[: counts[kind] * KEY_BYTES[kind]] for kind in range(4)),
        tuple(positions[kind][: counts[kind]] for kind in range(4)),
        tuple((refused[i], reasons[i]) for i in range(out.n_refused)),
        lines,
    )


def ipset_lines(text: bytes, name: bytes, key_bytes: int, *, timed: bool) -> tuple[bytes, array[int]] | None:
    """Keys and seconds of lines that `ipset save` prints; None if they say more, see csrc/nft_api.h."""
    room = text.count(b"\n")
    keys, seconds = bytearray(room * key_bytes), array("I", bytes(4 * room))
    held = ffi.from_buffer("uint8_t[]", keys), ffi.from_buffer("uint32_t[]", seconds)
    lines = lib.nfk_ipset_lines(text, len(text), name, key_bytes, timed, room, *held)
    if lines == -errno.ENOMEM:
        raise MemoryError
    return (bytes(keys), seconds) if lines == room else None


_RULE = struct.Struct("=3Q12I")  # nfk_rule
assert _RULE.size == ffi.sizeof("nfk_rule")


def rules(listed: Sequence[bytes]) -> tuple[bytes, bytes, Iterator[tuple[int, ...]]]:
    """Rules as the kernel lists them: all of them in a row, what they do in a row, the fields of an nfk_rule each.

    Raises NfkeepError for what is no rule.
    """
    data, lengths = b"".join(listed), array("I", map(len, listed))
    found = bytearray(len(listed) * _RULE.size)
    meanings = bytearray(2 * len(data) + 8 * len(listed))
    held = [ffi.from_buffer(kind, of) for kind, of in (("uint32_t[]", lengths), ("nfk_rule[]", found))]
    number = lib.nfk_rules(data, len(data), held[0], len(listed), held[1], ffi.from_buffer(meanings), len(meanings))
    if number:
        raise fail(-number, "reading rules that the kernel has listed")
    return data, bytes(meanings), _RULE.iter_unpack(found)


class ElementSocket:
    """One nfnetlink socket for the elements of any number of sets; it stays in the namespace that it was made in."""

    def __init__(self) -> None:
        error = ffi.new("int *")
        self.pointer = lib.nfk_nft_open(error)
        if not self.pointer:
            raise fail(-error[0], "opening an nfnetlink socket")

    def close(self) -> None:
        """Close the socket; the handles of its sets must not be used any more. Idempotent."""
        pointer, self.pointer = self.pointer, ffi.NULL
        if pointer:
            lib.nfk_nft_close(pointer)


class HostPair:
    """The sets of IPv4 and of IPv6 hosts, for bans by text in one call each; see csrc/nft_api.h.

    `ban(text, length, guards.array, guards.count, timeout_ms)` is nfk_ban() itself, without a frame of Python around
    it, which would take a fifth of the time: 1 if that was all there was to do, else nothing was done.
    """

    __slots__ = ("_held", "_v4", "_v6", "ban")

    def __init__(self, v4: SetHandle, v6: SetHandle) -> None:
        self._held = v4, v6
        self._v4, self._v6 = v4._pointer, v6._pointer
        self.ban: Callable[[bytes, int, Any, int, int], int] = functools.partial(lib.nfk_ban, self._v4, self._v6)

    def unban(self, text: bytes) -> bool | None:
        """Whether it was in; None if that is not all there is to do, and nothing was done."""
        result = lib.nfk_unban(self._v4, self._v6, text, len(text))
        return None if result < 0 else result == 1


@attrs.frozen(slots=True)
class Found:
    """An element as the kernel has it; times in ms, 0 for ever."""

    key: bytes
    timeout_ms: int
    expires_ms: int
    comment: str


class SetHandle:
    """One set of one table, by name: whether it is there is found out when it is used. `family`: the table's."""

    __slots__ = ("_pointer", "_socket", "key_bytes")

    def __init__(
        self, socket: ElementSocket, table: str, name: str, key_bytes: int, family: int = NFPROTO_INET
    ) -> None:
        error = ffi.new("int *")
        pointer = lib.nfk_set_open(socket.pointer, family, table.encode(), name.encode(), key_bytes, error)
        if not pointer:
            raise fail(-error[0], "naming a set")
        self._pointer = ffi.gc(pointer, lib.nfk_set_close)
        self._socket = socket
        self.key_bytes = key_bytes

    def one(self, step: int, key: bytes, timeout_ms: int = 0, userdata: bytes = b"") -> int:
        """One step on one element as a transaction; 0 or the errno."""
        result: int = lib.nfk_set_one(self._pointer, step, key, timeout_ms, userdata, len(userdata))
        return -result

    def change(
        self,
        steps: Sequence[int],
        keys: bytes | memoryview,
        timeouts: int | array[int] = 0,
        *,
        expirations: array[int] | None = None,
        userdata: bytes = b"",
    ) -> int:
        """The steps, each on all elements, as one transaction; 0 or the errno."""
        elements, _held = self._elements(keys, timeouts, expirations, userdata)
        result: int = lib.nfk_set_change(self._pointer, bytes(steps), len(steps), elements)
        return -result

    def present(self, keys: bytes | memoryview) -> tuple[int, bytes]:
        """0 or the errno, and of each key a byte that tells whether it is there."""
        count = len(keys) // self.key_bytes
        found = ffi.new("uint8_t[]", count)
        result = lib.nfk_set_present(self._pointer, ffi.from_buffer("uint8_t[]", keys), count, found)
        return -result, ffi.buffer(found)[:] if count else b""

    def flush(self) -> int:
        """Take all elements out; 0 or the errno."""
        result: int = lib.nfk_set_flush(self._pointer)
        return -result

    def get(self, key: bytes) -> tuple[int, Found | None]:
        """The element under a key, or the errno (ENOENT: the element is not there, or the set is not)."""
        dump = ffi.new("nfk_dump *")
        result = lib.nfk_set_get(self._pointer, key, dump)
        if result < 0:
            return -result, None
        try:
            return 0, next(self._found(dump), None)
        finally:
            lib.nfk_dump_free(dump)

    def dump(self) -> tuple[int, list[Found], bool]:
        """0 or the errno, all elements, and whether there were changes meanwhile."""
        dump = ffi.new("nfk_dump *")
        result = lib.nfk_set_dump(self._pointer, dump)
        if result < 0:
            return -result, [], False
        try:
            return 0, list(self._found(dump)), bool(dump.interrupted)
        finally:
            lib.nfk_dump_free(dump)

    def count(self) -> int:
        """How many elements there are, or minus the errno."""
        return int(lib.nfk_set_count(self._pointer))

    def _elements(
        self,
        keys: bytes | memoryview,
        timeouts: int | array[int],
        expirations: array[int] | None,
        userdata: bytes,
    ) -> tuple[Any, list[Any]]:
        elements = ffi.new("nfk_elements *")
        held = [ffi.from_buffer("uint8_t[]", keys), ffi.from_buffer("uint8_t[]", userdata)]
        elements.keys, elements.count = held[0], len(keys) // self.key_bytes
        elements.userdata, elements.userdata_length = held[1], len(userdata)
        if isinstance(timeouts, int):
            elements.timeout = timeouts
        else:
            held.append(ffi.from_buffer("uint64_t[]", timeouts))
            elements.timeouts = held[-1]
        if expirations is not None:
            held.append(ffi.from_buffer("uint64_t[]", expirations))
            elements.expirations = held[-1]
        return elements, held

    def _found(self, dump: Any) -> Iterator[Found]:
        if not dump.count:
            return
        rows = _ELEMENT.iter_unpack(ffi.buffer(dump.elements, dump.count * _ELEMENT.size))
        length, text = self.key_bytes, dump.text
        for key, timeout, expires, comment, comment_length in rows:
            said = ""
            if comment_length:
                said = ffi.buffer(text + comment, comment_length)[:].decode(errors="replace")
            yield Found(key[:length], timeout, expires, said)
