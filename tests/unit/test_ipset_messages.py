"""Messages for ipset: every length, alignment and flag, what the kernel's answers mean, and what is no answer at all.

`tree` reads attributes by itself, so that the packing is not judged by its own rules.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Family
from nfkeep.errors import CommitError, NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.ipset import messages
from nfkeep.ipset.enlarge import larger
from nfkeep.ipset.messages import Command, Header
from nfkeep.ipset.refusals import Refused, concerns_all, describe, refusal
from nfkeep.ipset.sets import hash_size

if TYPE_CHECKING:
    from collections.abc import Callable

NESTED, BIG_ENDIAN = 0x8000, 0x4000
HOST4, HOST6 = bytes([192, 0, 2, 7]), bytes(range(16, 32))
HEADER = Header("nfkeep-x-4", "hash:ip", Family.IPV4, 2, 1000, 3, 512, 1, timeout=0, flags=messages.WITH_COMMENT)

Tree = list[tuple[int, Any]]  # an attribute's type with its flags, and its bytes or what is nested in it


def tree(data: bytes) -> Tree:
    """The attributes of `data`, which they fill to the last byte, each on a multiple of four with zeros behind it."""
    found: Tree = []
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        end = (at + length + 3) // 4 * 4
        assert 4 <= length <= len(data) - at
        assert data[at + length : end] == bytes(end - at - length)
        content = data[at + 4 : at + length]
        found.append((kind, tree(content) if kind & NESTED else content))
        at = end
    assert at == len(data)
    return found


def number(value: int) -> bytes:
    return struct.pack("!I", value)


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", len(content) + 4, kind) + content + bytes(-len(content) % 4)


def seen_element(address: bytes, *more: bytes) -> bytes:
    """An element as the kernel lists it; it flags the address differently from what it wants to be sent."""
    inner = attribute(1 if len(address) == 4 else 2, address)
    return attribute(7 | NESTED, attribute(1 | NESTED, inner) + b"".join(more))


def listing(*elements: bytes) -> bytes:
    return attribute(1, b"\7") + attribute(2, b"nfkeep-x-4\0") + attribute(8 | NESTED, b"".join(elements))


TIMEOUT = attribute(6 | BIG_ENDIAN, number(77))
COMMENT = attribute(26, b"why\0")
NOMATCH = attribute(8 | BIG_ENDIAN, number(4))


def test_frame() -> None:
    """A message has the headers of linux/netlink.h and nfnetlink.h, and its length counts them."""
    made = messages.frame(Command.DEL, messages.NLM_F_EXCL, 7, b"body")
    assert made == struct.pack("=IHHIIBBH", 24, 6 << 8 | 10, 0x1 | 0x200, 7, 0, 2, 0, 0) + b"body"


def test_target() -> None:
    """Every command on a set begins with the protocol and the name, which ends with a zero."""
    assert tree(messages.target(7, "ab")) == [(1, b"\7"), (2, b"ab\0")]


@pytest.mark.parametrize("name", ["", "x" * 32, "ä" * 16, "a\0b"], ids=["none", "long", "long in bytes", "zero"])
def test_names_that_cannot_be(name: str) -> None:
    """A name that the kernel would cut off or not take is never sent."""
    with pytest.raises(ValueError):
        messages.target(7, name)


def test_longest_name() -> None:
    """A name of 31 characters fits."""
    assert tree(messages.target(6, "x" * 31))[1] == (2, b"x" * 31 + b"\0")


@pytest.mark.parametrize(
    ("address", "prefix", "expected"),
    [
        (HOST4, None, [(1 | NESTED, [(1 | BIG_ENDIAN, HOST4)])]),
        (HOST6, None, [(1 | NESTED, [(2 | BIG_ENDIAN, HOST6)])]),
        (HOST4, 24, [(1 | NESTED, [(1 | BIG_ENDIAN, HOST4)]), (3, b"\x18")]),
        (HOST6, 128, [(1 | NESTED, [(2 | BIG_ENDIAN, HOST6)]), (3, b"\x80")]),
    ],
    ids=["IPv4", "IPv6", "IPv4 network", "IPv6 network"],
)
def test_identity(address: bytes, prefix: int | None, expected: Tree) -> None:
    """An address is nested and flagged as big-endian; a network has its prefix beside it; both can be read back."""
    made = messages.identity(address, prefix)
    assert tree(made) == expected
    assert messages.address_of(made) == (address, prefix)


def test_many_identities() -> None:
    """Hosts packed in one go are those packed one by one."""
    for size in (4, 16):
        addresses = [bytes([index]) * size for index in range(5)]
        assert messages.hosts(b"".join(addresses), size) == [messages.identity(each) for each in addresses]


@pytest.mark.parametrize("address", [b"", b"123", b"12345", b"x" * 17], ids=len)
def test_addresses_that_cannot_be(address: bytes) -> None:
    """What has the length of no address is not packed."""
    with pytest.raises(ValueError):
        messages.identity(address)


@pytest.mark.parametrize("text", ["x", "x" * 255, "häßlich"])
def test_comment(text: str) -> None:
    """A comment is a string that ends with a zero."""
    assert tree(messages.comment(text)) == [(26, text.encode() + b"\0")]


def test_no_comment() -> None:
    """Without a comment there is no attribute, which takes an old comment away."""
    assert messages.comment("") == b""


@pytest.mark.parametrize("text", ["x" * 256, "ä" * 128, "a\0b"], ids=["long", "long in bytes", "zero"])
def test_comments_that_cannot_be(text: str) -> None:
    """A comment that the kernel would cut off is not packed."""
    with pytest.raises(ValueError):
        messages.comment(text)


def test_lifetime() -> None:
    """Seconds are big-endian, and flagged so: without the flag the kernel takes the message for a broken one."""
    assert tree(messages.lifetime(3600)) == [(6 | BIG_ENDIAN, number(3600))]


def test_one() -> None:
    """One element is nested data."""
    item = messages.identity(HOST4) + messages.lifetime(5)
    assert tree(messages.one(item)) == [
        (7 | NESTED, [(1 | NESTED, [(1 | BIG_ENDIAN, HOST4)]), (6 | BIG_ENDIAN, number(5))])
    ]


def test_many() -> None:
    """Many elements are data in a list, each with its line number; the message has one too, for the kernel to fill."""
    items = [messages.identity(HOST4), messages.identity(HOST6) + messages.comment("x")]
    line = [struct.pack("=I", value) for value in (1, 2)]
    assert tree(messages.many(items)) == [
        (9, line[0]),
        (
            8 | NESTED,
            [
                (7 | NESTED, [(1 | NESTED, [(1 | BIG_ENDIAN, HOST4)]), (9, line[0])]),
                (7 | NESTED, [(1 | NESTED, [(2 | BIG_ENDIAN, HOST6)]), (26, b"x\0"), (9, line[1])]),
            ],
        ),
    ]


@pytest.mark.parametrize(
    "item",
    [
        messages.identity(HOST4),
        messages.identity(HOST4) + messages.lifetime(1),
        messages.identity(HOST6, 64) + messages.lifetime(1) + messages.comment("x" * 255),
    ],
    ids=len,
)
def test_most(item: bytes) -> None:
    """As many items as are said to fit into one message do: no length in it is beyond its 16 bits."""
    items = [item] * 5000
    fit = messages.most(items)
    assert 50 < fit <= 1000
    listed = tree(messages.many(items[:fit]))[1][1]
    assert len(listed) == fit
    assert listed[-1][1][-1] == (9, struct.pack("=I", fit))


@pytest.mark.parametrize("exclusive", [False, True])
def test_pair(exclusive: bool) -> None:
    """Two messages in one are those that `frame` makes, the second with an acknowledgement and never exclusive."""
    item = messages.identity(HOST4) + messages.lifetime(9)
    pack = messages.pair(7, Command.ADD, exclusive, "a", "a+", len(item))
    flags = messages.NLM_F_EXCL if exclusive else 0
    first = messages.frame(Command.ADD, flags, 41, messages.target(7, "a") + messages.one(item))
    second = messages.frame(Command.ADD, messages.NLM_F_ACK, 42, messages.target(7, "a+") + messages.one(item))
    assert pack(41, item) == first + second


def test_failed_line() -> None:
    """The line at which the kernel stopped stands in its copy of the message, behind the target; else there is none."""
    target = messages.target(7, "nfkeep-x-4")
    sent = messages.frame(Command.ADD, 0, 1, target + messages.many([messages.identity(HOST4)] * 9))
    at = 20 + len(target) + 4
    told = sent[:at] + struct.pack("=I", 6) + sent[at + 4 :]
    assert messages.failed_line(told, len(target)) == 6
    assert messages.failed_line(told[:16], len(target)) == 0
    assert messages.failed_line(told[: at + 2], len(target)) == 0
    other = messages.frame(Command.ADD, 0, 1, target + messages.one(messages.identity(HOST4)))
    assert messages.failed_line(other, len(target)) == 0


def test_creation() -> None:
    """What makes a set says its type, revision, family, width, size, default timeout and extensions."""
    made = tree(messages.creation(HEADER))
    assert made == [
        (3, b"hash:ip\0"),
        (4, b"\2"),
        (5, b"\2"),
        (
            7 | NESTED,
            [
                (18 | BIG_ENDIAN, number(512)),
                (19 | BIG_ENDIAN, number(1000)),
                (6 | BIG_ENDIAN, number(0)),
                (8 | BIG_ENDIAN, number(16)),
            ],
        ),
    ]
    plain = tree(messages.creation(attrs.evolve(HEADER, timeout=None, flags=0, family=Family.IPV6)))
    assert plain[2] == (5, b"\x0a")
    assert [kind & ~BIG_ENDIAN for kind, _ in plain[3][1]] == [18, 19]


def test_questions() -> None:
    """The other commands: a type, a swap, a list without its elements."""
    assert tree(messages.type_question(6, "hash:net", Family.IPV6)) == [(1, b"\6"), (3, b"hash:net\0"), (5, b"\x0a")]
    assert tree(messages.other_name("b")) == [(3, b"b\0")]
    assert tree(messages.header_only()) == [(6 | BIG_ENDIAN, number(4))]


def test_header() -> None:
    """A set's header is read as the kernel writes it; a later part of a listing has none."""
    data = [
        attribute(18 | BIG_ENDIAN, number(512)),
        attribute(19 | BIG_ENDIAN, number(1000)),
        attribute(25 | BIG_ENDIAN, number(1)),
        attribute(24 | BIG_ENDIAN, number(3)),
        attribute(6 | BIG_ENDIAN, number(0)),
        attribute(8 | BIG_ENDIAN, number(16)),
    ]
    begin = attribute(1, b"\7") + attribute(2, b"nfkeep-x-4\0")
    begin += attribute(3, b"hash:ip\0") + attribute(5, b"\2") + attribute(4, b"\2")
    assert messages.header(begin + attribute(7 | NESTED, b"".join(data))) == HEADER
    bare = messages.header(begin + attribute(7 | NESTED, b"".join(data[:3])))
    assert bare == attrs.evolve(HEADER, used=None, timeout=None, flags=0)
    assert messages.header(listing()) is None


def test_versions() -> None:
    """The lowest and the highest of protocol and type are read; who tells one only means that one."""
    assert messages.versions(attribute(1, b"\7") + attribute(10, b"\6")) == (6, 7)
    assert messages.versions(attribute(1, b"\6")) == (6, 6)
    assert messages.revisions(attribute(3, b"hash:ip\0") + attribute(4, b"\6") + attribute(10, b"\0")) == (0, 6)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (seen_element(HOST4, TIMEOUT), (messages.identity(HOST4), 77, b"")),
        (seen_element(HOST4, TIMEOUT, COMMENT), (messages.identity(HOST4), 77, COMMENT)),
        (seen_element(HOST6, TIMEOUT, COMMENT), (messages.identity(HOST6), 77, COMMENT)),
        (seen_element(HOST4, attribute(3, b"\x18"), TIMEOUT), (messages.identity(HOST4, 24), 77, b"")),
        (seen_element(HOST6, attribute(3, b"\x40"), TIMEOUT), (messages.identity(HOST6, 64), 77, b"")),
        (
            seen_element(HOST4, attribute(3, b"\x18"), NOMATCH, TIMEOUT, COMMENT),
            (messages.identity(HOST4, 24), 77, NOMATCH + COMMENT),
        ),
        (seen_element(HOST4, COMMENT, TIMEOUT), (messages.identity(HOST4), 77, COMMENT)),
        (seen_element(HOST4, attribute(99, b"new")), (messages.identity(HOST4), 0, attribute(99, b"new"))),
    ],
    ids=["host", "comment", "IPv6", "network", "IPv6 network", "exception", "another order", "an unknown attribute"],
)
def test_members(element: bytes, expected: tuple[bytes, int, bytes]) -> None:
    """An element is read whatever the order of its attributes, and those that nobody here knows keep their bytes."""
    identity, seconds, rest = expected
    other = seen_element(bytes([198, 51, 100, 1]), TIMEOUT)
    found = messages.members([listing(element, other), listing(other)])
    assert found == {identity: (seconds, rest), messages.identity(bytes([198, 51, 100, 1])): (77, b"")}


def test_what_is_in_the_rest() -> None:
    """Comment and `nomatch` are found among the other attributes."""
    assert messages.comment_of(COMMENT) == "why"
    assert messages.comment_of(NOMATCH + attribute(26, b"\xff\0")) == "\N{REPLACEMENT CHARACTER}"
    assert messages.comment_of(NOMATCH) == ""
    assert messages.is_exception(COMMENT + NOMATCH)
    assert not messages.is_exception(COMMENT + attribute(8 | BIG_ENDIAN, number(1)))


@pytest.mark.parametrize(("left", "more", "expected"), [(5, 1, 6), (0, 1, 0), (2147483, 1, 2147483), (5, 0, 5)])
def test_copy_of_a_member(left: int, more: int, expected: int) -> None:
    """A copy lasts as much longer as is asked for, but never longer than can be, and for ever stays for ever."""
    made = messages.item(messages.identity(HOST4), (left, COMMENT), more)
    assert made == messages.identity(HOST4) + messages.lifetime(expected) + COMMENT


READERS: list[Callable[[bytes], object]] = [
    messages.header,
    messages.versions,
    messages.revisions,
    messages.comment_of,
    messages.is_exception,
    lambda data: messages.members([data]),
    lambda data: messages.failed_line(data, 24),
]


def mutations() -> st.SearchStrategy[bytes]:
    """Bytes, and answers of the kernel with some of their bytes replaced or cut off."""
    good = listing(
        seen_element(HOST4, attribute(3, b"\x18"), NOMATCH, TIMEOUT, COMMENT), seen_element(HOST6, TIMEOUT)
    ) + messages.creation(HEADER)

    def spoil(changes: list[tuple[int, int]], end: int) -> bytes:
        made = bytearray(good)
        for at, value in changes:
            made[at % len(made)] = value
        return bytes(made[: end % (len(made) + 1)])

    change = st.tuples(st.integers(0, 1000), st.integers(0, 255))
    return st.one_of(st.binary(max_size=200), st.builds(spoil, st.lists(change, max_size=8), st.integers(0, 1000)))


@pytest.mark.parametrize("length", [0, 1, 3, 9, 0xFFFF])
@pytest.mark.parametrize("nests", [[], [8 | NESTED], [7 | NESTED, 8 | NESTED]], ids=len)
@pytest.mark.parametrize("inner", [7 | NESTED, 99])
def test_lengths_that_cannot_be(length: int, inner: int, nests: list[int]) -> None:
    """An attribute that says it is shorter than its own head, or longer than what there is, is a ValueError."""
    data = struct.pack("=HH", length, inner) + bytes(4)
    for kind in nests:
        data = attribute(kind, data)
    with pytest.raises(ValueError):
        messages.members([data])


@given(mutations())
def test_hostile_answers(data: bytes) -> None:
    """Whatever comes in is read or is a ValueError, nothing else, and never without end."""
    for reader in READERS:
        try:
            reader(data)
        except ValueError:
            continue


@given(
    st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 2147483), st.text(max_size=40)), max_size=9)
)
def test_what_is_packed_is_read(elements: list[tuple[bytes, int, str]]) -> None:
    """Elements come back from a listing of what was packed, as the kernel would make it."""
    wanted = {}
    data = b""
    for address, seconds, text in elements:
        try:
            remark = messages.comment(text)
        except ValueError:  # a zero in it, or what is no text
            continue
        data += seen_element(address, messages.lifetime(seconds), remark)
        wanted[messages.identity(address)] = seconds, text
    found = messages.members([listing(data)])
    assert {key: (left, messages.comment_of(rest)) for key, (left, rest) in found.items()} == wanted


@pytest.mark.parametrize(
    ("given_number", "kind"),
    [
        (errno.EPERM, PermissionDeniedError),
        (errno.EOPNOTSUPP, UnsupportedError),
        (Refused.FIND_TYPE, UnsupportedError),
        (errno.ENOENT, CommitError),
        (errno.ENOMEM, CommitError),
        (Refused.FULL, CommitError),
        (4105, CommitError),
        (4999, CommitError),
    ],
)
def test_refusals(given_number: int, kind: type[NfkeepError]) -> None:
    """Each number of the kernel's is an error that says what was being done; a CommitError keeps the number."""
    error = refusal(given_number, "adding to the set x")
    assert type(error) is kind
    assert str(error).startswith("adding to the set x")
    if isinstance(error, CommitError):
        assert (error.errno, error.applied) == (given_number, False)
        assert describe(given_number) in str(error)


def test_every_number_has_words() -> None:
    """None of ipset's own numbers is left without words, each has its own, and what is new is told as a number."""
    words = [describe(value) for value in [*range(4097, 4116), *range(4352, 4358)]]
    assert len(set(words)) == len(words)
    assert not [each for each in words if "error 4" in each]
    assert describe(4200) == "ipset's error 4200"


@pytest.mark.parametrize(
    ("value", "all_of_them"),
    [
        (errno.ENOENT, True),
        (errno.ENOMEM, True),
        (Refused.FULL, True),
        (Refused.PROTOCOL, True),
        (Refused.ZERO, False),
        (Refused.EXISTS, False),
        (4104, False),
    ],
)
def test_whose_fault(value: int, all_of_them: bool) -> None:
    """A zero address is wrong with one element; no room, set or memory is wrong with all that follow."""
    assert concerns_all(value) == all_of_them


@pytest.mark.parametrize(
    ("size", "used", "need", "expected"),
    [(16, 13, 0, 32), (16, 16, 1, 64), (16, 16, 1000, 2048), (1 << 31, 1 << 31, 0, 0xFFFFFFFF)],
)
def test_larger(size: int, used: int, need: int, expected: int) -> None:
    """A set that grows is at least twice as large, half empty with all that is to come, and within 32 bits."""
    assert larger(attrs.evolve(HEADER, size=size), used, need) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 64), (1000, 512), (131072, 65536), (131073, 65536), (1 << 30, 1 << 20)]
)
def test_hash_size(size: int, expected: int) -> None:
    """A table has a bucket for every two elements, and a limit, as its buckets are made at once."""
    assert hash_size(size) == expected
