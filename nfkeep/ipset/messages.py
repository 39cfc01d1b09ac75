"""ipset's netlink messages as bytes, packed and taken apart. Pure, no I/O.

linux/netfilter/ipset/ip_set.h names the numbers. Headers are in the byte order of the host, and so is a line number;
every other number inside is big-endian, and flagged so. An *item* is one element as a message holds it: what it is (its
*identity*: address and prefix), for how long, and its comment. ValueError: what came in is no such message.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import attrs

from nfkeep.model import Family

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_DUMP = 0x1, 0x4, 0x200, 0x300
MAX_SECONDS = 2147483
"""IPSET_MAX_TIMEOUT: the longest that an element can last, if not for ever."""
MAX_NAME = 31
MAX_COMMENT = 255
MAX_PROTOCOL = 7
WITH_COMMENT, WITH_FORCEADD = 1 << 4, 1 << 5  # IPSET_FLAG_*, of IPSET_ATTR_CADT_FLAGS at creation
NOMATCH = 1 << 2  # IPSET_FLAG_NOMATCH, of an element: what is in it does not match

_NFNL_SUBSYS_IPSET = 6
_MESSAGE = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_NESTED, _BIG_ENDIAN = 0x8000, 0x4000  # NLA_F_NESTED, NLA_F_NET_BYTEORDER
_KIND = 0x3FFF
_PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")

# of a message
_PROTOCOL, _SETNAME, _TYPENAME, _SETNAME2, _REVISION, _FAMILY, _FLAGS, _DATA, _ADT, _LINENO, _REVISION_MIN = (
    *(1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10),
)
# of an element, and of a set
_IP, _CIDR, _TIMEOUT, _CADT_FLAGS = 1, 3, 6, 8
_HASHSIZE, _MAXELEM, _ELEMENTS, _REFERENCES = 18, 19, 24, 25
_COMMENT = 26  # of an element only
_IPV4, _IPV6 = 1, 2
_LIST_HEADER = 1 << 2  # IPSET_FLAG_LIST_HEADER


class Command(enum.IntEnum):
    """IPSET_CMD_*."""

    PROTOCOL = 1
    CREATE = 2
    DESTROY = 3
    FLUSH = 4
    SWAP = 6
    LIST = 7
    ADD = 9
    DEL = 10
    TEST = 11
    HEADER = 12
    TYPE = 13


@attrs.frozen(slots=True)
class Header:
    """What the kernel tells of a set, apart from its elements.

    `size`: how many it can take. `used`: how many are in, None if the kernel does not count. `timeout`: the default for
    an element in seconds (0: for ever), None if elements of this set cannot have one. `flags`: IPSET_FLAG_WITH_*.
    """

    name: str
    type_name: str
    family: Family
    revision: int
    size: int
    used: int | None
    hash_size: int
    references: int
    timeout: int | None
    flags: int


Members: TypeAlias = dict[bytes, tuple[int, bytes]]
"""Elements as a dump shows them: by identity, seconds left (0: for ever), and all other attributes as they came."""


def frame(command: Command, flags: int, sequence: int, body: bytes) -> bytes:
    """One message with its headers."""
    kind = _NFNL_SUBSYS_IPSET << 8 | command
    size = _MESSAGE.size + len(body)
    return _MESSAGE.pack(size, kind, NLM_F_REQUEST | flags, sequence, 0, Family.IPV4.value, 0, 0) + body


def target(protocol: int, name: str) -> bytes:
    """The beginning of the body of every command on one set."""
    text = name.encode()
    if not 0 < len(text) <= MAX_NAME or b"\0" in text:
        raise ValueError(f"{name!r:.80} cannot name a set")
    return version(protocol) + _attribute(_SETNAME, text + b"\0")


def version(protocol: int) -> bytes:
    """The beginning of the body of every other command."""
    return _byte(_PROTOCOL, protocol)


def type_question(protocol: int, type_name: str, family: Family) -> bytes:
    """The body of TYPE; `revisions` reads the answer."""
    return version(protocol) + _attribute(_TYPENAME, type_name.encode() + b"\0") + _byte(_FAMILY, family.value)


def creation(header: Header) -> bytes:
    """What is behind the target in CREATE: all of `header` but its name, and what only the kernel knows."""
    inner = _number(_HASHSIZE, header.hash_size) + _number(_MAXELEM, header.size)
    if header.timeout is not None:
        inner += _number(_TIMEOUT, header.timeout)
    if header.flags:
        inner += _number(_CADT_FLAGS, header.flags)
    body = _attribute(_TYPENAME, header.type_name.encode() + b"\0") + _byte(_REVISION, header.revision)
    return body + _byte(_FAMILY, header.family.value) + _nest(_DATA, inner)


def other_name(name: str) -> bytes:
    """What is behind the target in SWAP."""
    return _attribute(_SETNAME2, name.encode() + b"\0")


def header_only() -> bytes:
    """What is behind the target in LIST, to be spared the elements."""
    return _number(_FLAGS, _LIST_HEADER)


def identity(address: bytes, prefix: int | None = None) -> bytes:
    """What an element is: a host, or with a prefix (in bits) a network."""
    if len(address) == 4:
        return _IPV4_HEAD + address + (b"" if prefix is None else _byte(_CIDR, prefix))
    if len(address) != 16:
        raise ValueError(f"an address of {len(address)} bytes")
    return _IPV6_HEAD + address + (b"" if prefix is None else _byte(_CIDR, prefix))


def hosts(addresses: bytes, address_bytes: int) -> list[bytes]:
    """The identities of many hosts, whose addresses stand one behind the other."""
    head = _IPV4_HEAD if address_bytes == 4 else _IPV6_HEAD
    return [head + addresses[at : at + address_bytes] for at in range(0, len(addresses), address_bytes)]


def lifetime(seconds: int) -> bytes:
    """For how long an element is in; 0 is for ever."""
    return _TIMEOUT_HEAD + seconds.to_bytes(4, "big")


def comment(text: str) -> bytes:
    """The comment of an element; nothing for an empty one."""
    if not text:
        return b""
    data = text.encode()
    if len(data) > MAX_COMMENT or b"\0" in data:
        raise ValueError(f"{text!r:.80} cannot be a comment: more than {MAX_COMMENT} bytes, or a zero in it")
    return _attribute(_COMMENT, data + b"\0")


def one(item: bytes) -> bytes:
    """What is behind the target in ADD, DEL or TEST of one element."""
    return _ATTRIBUTE.pack(len(item) + 4, _DATA | _NESTED) + item


Pair: TypeAlias = Callable[[int, bytes], bytes]
"""What `pair` returns: two messages from the first one's sequence number and the item."""


def pair(protocol: int, command: Command, exclusive: bool, name: str, twin: str, item_bytes: int) -> Pair:
    """What packs two such messages with one item of that size: for `name`, and, to be acknowledged, for its twin.

    It is called with the sequence number of the first message and the item, and does little more than copy.
    """
    item = bytes(item_bytes)
    first = frame(command, NLM_F_EXCL if exclusive else 0, 0, target(protocol, name) + one(item))
    second = frame(command, NLM_F_ACK, 0, target(protocol, twin) + one(item))
    begin, middle = first[:8], first[12 : len(first) - item_bytes]  # but the number at 8 and the item
    begin_2, middle_2 = second[:8], second[12 : len(second) - item_bytes]
    fill = struct.Struct(f"=8sI{len(middle)}s{item_bytes}s8sI{len(middle_2)}s{item_bytes}s").pack

    def pack(sequence: int, item: bytes) -> bytes:
        return fill(begin, sequence, middle, item, begin_2, sequence + 1, middle_2, item)

    return pack


def many(items: Sequence[bytes]) -> bytes:
    """What is behind the target in ADD or DEL of at most `most(items)` elements, numbered from 1 on."""
    heads = {size: _ATTRIBUTE.pack(size + 12, _DATA | _NESTED) for size in set(map(len, items))}
    listed = b"".join([heads[len(item)] + item + line for item, line in zip(items, _LINES, strict=False)])
    return _LINES[0] + _nest(_ADT, listed)


def most(items: Sequence[bytes]) -> int:
    """How many of these, from the first on, one message takes."""
    return min(len(_LINES), _ROOM // (max(map(len, items), default=0) + 12))


def failed_line(refused: bytes, target_bytes: int) -> int:
    """The number of the item at which the kernel stopped, from its copy of the message (its headers included)."""
    at = _MESSAGE.size + target_bytes
    if refused[at : at + 4] != _LINES[0][:4] or len(refused) < at + 8:
        return 0
    (line,) = struct.unpack_from("=I", refused, at + 4)
    return int(line)


def versions(data: bytes) -> tuple[int, int]:
    """The lowest and the highest version that the kernel speaks, from its answer to PROTOCOL."""
    found = dict(attributes(data))
    high = _first(found, _PROTOCOL)
    return (_first(found, _REVISION_MIN) if _REVISION_MIN in found else high), high


def revisions(data: bytes) -> tuple[int, int]:
    """The lowest and the highest revision of a type that the kernel has, from its answer to TYPE."""
    found = dict(attributes(data))
    high = _first(found, _REVISION)
    return (_first(found, _REVISION_MIN) if _REVISION_MIN in found else high), high


def header(data: bytes) -> Header | None:
    """The header of a set, from the first answer to LIST; None from a later one."""
    found = dict(attributes(data))
    if _TYPENAME not in found:
        return None
    inner = dict(attributes(found.get(_DATA, b"")))
    numbers = {kind: int.from_bytes(content, "big") for kind, content in inner.items()}
    return Header(
        name=_text(found.get(_SETNAME, b"")),
        type_name=_text(found[_TYPENAME]),
        family=Family(_first(found, _FAMILY)),
        revision=_first(found, _REVISION),
        size=numbers.get(_MAXELEM, 0),
        used=numbers.get(_ELEMENTS),
        hash_size=numbers.get(_HASHSIZE, 0),
        references=numbers.get(_REFERENCES, 0),
        timeout=numbers.get(_TIMEOUT),
        flags=numbers.get(_CADT_FLAGS, 0),
    )


def members(answers: Iterable[bytes]) -> Members:
    """The elements in answers to LIST. As there are hundreds of thousands, the usual order of attributes is hurried."""
    found: Members = {}
    for answer in answers:
        for kind, listed in attributes(answer):
            if kind != _ADT:
                continue
            at, end = 0, len(listed)
            while at + 4 <= end:
                length, kind = _ATTRIBUTE.unpack_from(listed, at)
                if not 4 <= length <= end - at:
                    raise ValueError(f"an element of {length} bytes with {end - at} left")
                element = listed[at + 4 : at + length]
                at += length + (-length & 3)
                if element[:8] in _SEEN and kind & _KIND == _DATA:
                    head, size = _SEEN[element[:8]]
                    if element.startswith(_CIDR_HEAD, size):
                        size += 8
                    if element.startswith(_TIMEOUT_HEAD, size) and len(element) >= size + 8:
                        seconds = int.from_bytes(element[size + 4 : size + 8], "big")
                        found[head + element[8:size]] = seconds, element[size + 8 :]
                        continue
                if kind & _KIND == _DATA:
                    found.update([_member(element)])
    return found


def item(identity: bytes, left: tuple[int, bytes], more_seconds: int = 0) -> bytes:
    """A member to be added again, lasting that much longer, unless it lasts for ever anyway."""
    seconds, rest = left
    return identity + lifetime(min(seconds + more_seconds, MAX_SECONDS) if seconds else 0) + rest


def address_of(identity: bytes) -> tuple[bytes, int | None]:
    """The address and the prefix that `identity` was made of."""
    size = 4 if identity.startswith(_IPV4_HEAD) else 16
    prefix = identity[8 + size + 4] if len(identity) > 8 + size else None
    return identity[8 : 8 + size], prefix


def comment_of(rest: bytes) -> str:
    """The comment among a member's other attributes."""
    return next((_text(content) for kind, content in attributes(rest) if kind == _COMMENT), "")


def is_exception(rest: bytes) -> bool:
    """Whether the member is an exception (`nomatch`): what is in it is not in the set, though a wider one says so."""
    flags = (int.from_bytes(content, "big") for kind, content in attributes(rest) if kind == _CADT_FLAGS)
    return any(each & NOMATCH for each in flags)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type, without flags, and content of each attribute, in order."""
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= end - at:
            raise ValueError(f"an attribute of {length} bytes with {end - at} left")
        yield kind & _KIND, data[at + 4 : at + length]
        at += length + (-length & 3)


def _member(element: bytes) -> tuple[bytes, tuple[int, bytes]]:
    address, prefix, seconds, rest, at = b"", None, 0, b"", 0
    for kind, content in attributes(element):
        length = len(content) + 4
        if kind == _IP:
            address = content[4:]
        elif kind == _CIDR and content:
            prefix = content[0]
        elif kind == _TIMEOUT:
            seconds = int.from_bytes(content, "big")
        else:
            rest += element[at : at + length] + _PADDING[-length & 3]
        at += length + (-length & 3)
    return identity(address, prefix), (seconds, rest)


def _attribute(kind: int, content: bytes) -> bytes:
    length = len(content)
    return _ATTRIBUTE.pack(length + 4, kind) + content + _PADDING[-length & 3]


def _nest(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(len(content) + 4, kind | _NESTED) + content


def _number(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind | _BIG_ENDIAN) + number.to_bytes(4, "big")


def _byte(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(5, kind) + bytes((number, 0, 0, 0))


def _first(found: dict[int, bytes], kind: int) -> int:
    content = found.get(kind, b"")
    if not content:
        raise ValueError(f"no attribute {kind} in the answer")
    return content[0]


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode(errors="replace")


_IPV4_HEAD = _ATTRIBUTE.pack(12, _IP | _NESTED) + _ATTRIBUTE.pack(8, _IPV4 | _BIG_ENDIAN)
_IPV6_HEAD = _ATTRIBUTE.pack(24, _IP | _NESTED) + _ATTRIBUTE.pack(20, _IPV6 | _BIG_ENDIAN)
# the kernel does not flag the address, but wants it flagged
_SEEN = {
    _ATTRIBUTE.pack(12, _IP | _NESTED) + _ATTRIBUTE.pack(8, _IPV4): (_IPV4_HEAD, 12),
    _ATTRIBUTE.pack(24, _IP | _NESTED) + _ATTRIBUTE.pack(20, _IPV6): (_IPV6_HEAD, 24),
}
_CIDR_HEAD = _ATTRIBUTE.pack(5, _CIDR)
_TIMEOUT_HEAD = _ATTRIBUTE.pack(8, _TIMEOUT | _BIG_ENDIAN)
_LINES = tuple(_ATTRIBUTE.pack(8, _LINENO) + struct.pack("=I", number + 1) for number in range(1000))
_ROOM = 32000  # bytes of items in a message: the kernel copies all of it into the answer if it refuses one
