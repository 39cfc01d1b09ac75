"""Messages for nf_tables: every length and alignment, what is nested in what, where a transaction begins and ends.

`tree` reads attributes by itself, so that the packing is not judged by its own rules.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfkeep import Family
from nfkeep.conntrack import Condition, Selector
from nfkeep.keep.guard import guard_ruleset
from nfkeep.model import Hook
from nfkeep.nft import encode, wire
from nfkeep.nft.messages import Message, batch, frame
from nfkeep.nft.ruleset import (
    AskLimit,
    BaseChain,
    Bitwise,
    Compare,
    Counter,
    CountIn,
    Ct,
    CtKey,
    Element,
    Header,
    Jump,
    Key,
    Limit,
    Lookup,
    Meta,
    MetaKey,
    Payload,
    Range,
    Reject,
    RejectType,
    Relation,
    Ruleset,
    TimedSet,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.nft.ruleset import Expression

NESTED = 0x8000
REGISTER = struct.pack("!I", 1)

Tree = list[tuple[int, Any]]  # an attribute's type, and its bytes or what is nested in it


def number(value: int) -> bytes:
    return struct.pack("!I", value)


def tree(data: bytes) -> Tree:
    """The attributes of `data`, which they fill to the last byte, each on a multiple of four with zeros behind it."""
    found: Tree = []
    at = 0
    while at < len(data):
        assert at % 4 == 0
        length, kind = struct.unpack_from("=HH", data, at)
        content = data[at + 4 : at + length]
        assert len(content) == length - 4
        end = (at + length + 3) // 4 * 4
        assert data[at + length : end] == bytes(end - at - length)
        found.append((kind & ~NESTED, tree(content) if kind & NESTED else content))
        at = end
    assert at == len(data)
    return found


@attrs.frozen
class Seen:
    """One message as it goes to the kernel."""

    kind: int
    flags: int
    sequence: int
    port: int
    family: int
    version: int
    resource: bytes
    attributes: Tree


def messages(data: bytes) -> list[Seen]:
    """The messages of `data`, which they fill to the last byte."""
    found = []
    while data:
        length, kind, flags, sequence, port, family, version = struct.unpack_from("=IHHIIBB", data)
        assert length % 4 == 0
        assert 20 <= length <= len(data)
        found.append(Seen(kind, flags, sequence, port, family, version, data[18:20], tree(data[20:length])))
        data = data[length:]
    return found


def expression(each: Expression) -> tuple[bytes, Tree]:
    """Name and attributes of the only expression of the only rule."""
    made = encode.make_table("t", Ruleset(chains=(BaseChain("c", Hook.INPUT, 0, ((each,),)),)))
    rule = dict(tree(made[-1].body))
    assert (rule[1], rule[2]) == (b"t\0", b"c\0")
    [(element, inner)] = rule[4]
    assert element == 1
    (name_type, name), (data_type, data) = inner
    assert (name_type, data_type) == (1, 2)
    return name, data or []


def value(content: bytes) -> Tree:
    return [(1, content)]


EXPRESSIONS: dict[str, tuple[Expression, bytes, Tree]] = {
    "meta": (Meta(MetaKey.OIFNAME), b"meta\0", [(1, REGISTER), (2, number(7))]),
    "ct": (Ct(CtKey.STATE), b"ct\0", [(1, REGISTER), (2, number(0))]),
    "ct original": (
        Ct(CtKey.PROTO_DST, original=True),
        b"ct\0",
        [(1, REGISTER), (2, number(12)), (3, b"\0")],
    ),
    "payload": (
        Payload(Header.TRANSPORT, 13, 1),
        b"payload\0",
        [(1, REGISTER), (2, number(2)), (3, number(13)), (4, number(1))],
    ),
    "a key of several fields": (
        Key(Header.NETWORK, 36, 40),
        b"payload\0",
        [(1, REGISTER), (2, number(1)), (3, number(36)), (4, number(40))],
    ),
    "dynset with a limit": (
        AskLimit("keys", Limit(3, 60, 5, over=True)),
        b"dynset\0",
        [
            (1, b"keys\0"), (3, number(0)), (4, REGISTER),
            (7, [(1, b"limit\0"), (2, [(1, bytes(7) + b"\3"), (2, bytes(7) + b"<"), (3, number(5)), (4, number(0)),
                                       (5, number(1))])]),
        ],
    ),
    "dynset with a limit of bytes": (
        AskLimit("keys", Limit(1120, 1, 0, in_bytes=True)),
        b"dynset\0",
        [
            (1, b"keys\0"), (3, number(0)), (4, REGISTER),
            (7, [(1, b"limit\0"), (2, [(1, bytes(6) + b"\4\x60"), (2, bytes(7) + b"\1"), (3, number(0)),
                                       (4, number(1)), (5, number(0))])]),
        ],
    ),
    "bitwise": (
        Bitwise(b"\xff\xf0\x00", b"\x00\x01\x02"),
        b"bitwise\0",
        [
            (1, REGISTER), (2, REGISTER), (3, number(3)),
            (4, value(b"\xff\xf0\x00")), (5, value(b"\x00\x01\x02")),
        ],
    ),
    "cmp": (Compare(Relation.NEQ, b"eth"), b"cmp\0", [(1, REGISTER), (2, number(1)), (3, value(b"eth"))]),
    "range": (
        Range(Relation.EQ, b"\0\1", b"\0\2"),
        b"range\0",
        [(1, REGISTER), (2, number(0)), (3, value(b"\0\1")), (4, value(b"\0\2"))],
    ),
    "lookup": (Lookup("shut"), b"lookup\0", [(1, b"shut\0"), (2, REGISTER)]),
    "counter": (Counter(), b"counter\0", []),
    "objref": (CountIn("seen"), b"objref\0", [(1, number(1)), (2, b"seen\0")]),
    "drop": (Verdict.DROP, b"immediate\0", [(1, number(0)), (2, [(2, [(1, number(0))])])]),
    "accept": (Verdict.ACCEPT, b"immediate\0", [(1, number(0)), (2, [(2, [(1, number(1))])])]),
    "jump": (
        Jump("c"), b"immediate\0", [(1, number(0)), (2, [(2, [(1, number(0xFFFFFFFD)), (2, b"c\0")])])],
    ),
    "goto": (
        Jump("c", goto=True), b"immediate\0", [(1, number(0)), (2, [(2, [(1, number(0xFFFFFFFC)), (2, b"c\0")])])],
    ),
    "reset": (Reject(RejectType.TCP_RESET), b"reject\0", [(1, number(1)), (2, b"\0")]),
    "reject": (Reject(RejectType.ICMPX, 3), b"reject\0", [(1, number(2)), (2, b"\3")]),
}  # fmt: skip


@pytest.mark.parametrize(("each", "name", "data"), EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_expression(each: Expression, name: bytes, data: Tree) -> None:
    """Each expression has the name and the attributes that its kernel module reads."""
    assert expression(each) == (name, data)


def test_table() -> None:
    """Set, elements, counter, chain and rule follow the table, each with what the kernel wants to know of it."""
    ruleset = Ruleset(
        (TimedSet("s", (Element(b"\6", 30), Element(b"\x11", 0.25))),),
        ("n",),
        (BaseChain("c", Hook.OUTPUT, -401, ((Counter(), Verdict.DROP), (Verdict.ACCEPT,))),),
    )
    made = encode.make_table("nfkeep", ruleset)
    table, timeouts = (1, b"nfkeep\0"), [struct.pack("!Q", 30000), struct.pack("!Q", 250)]
    rules = [dict(tree(each.body)) for each in made[5:]]
    assert [(each.kind, tree(each.body)) for each in made[:5]] == [
        (0, [table, (2, number(2))]),
        (9, [table, (2, b"s\0"), (3, number(0x10)), (4, number(12)), (5, number(1)), (10, number(1))]),
        (12, [
            table, (2, b"s\0"),
            (3, [(1, [(1, value(b"\6")), (4, timeouts[0])]), (1, [(1, value(b"\x11")), (4, timeouts[1])])]),
        ]),
        (18, [table, (2, b"n\0"), (3, number(1)), (4, [])]),
        (3, [
            table, (3, b"c\0"), (4, [(1, number(3)), (2, struct.pack("!i", -401))]),
            (5, number(1)), (7, b"filter\0"),
        ]),
    ]  # fmt: skip
    assert [each.kind for each in made[5:]] == [6, 6]
    assert [[inner[0][1] for _, inner in rule[4]] for rule in rules] == [
        [b"counter\0", b"immediate\0"],
        [b"immediate\0"],
    ]
    assert [each.what for each in made] == [
        "the table, with flags owner", "the set s, with timeouts", "the elements of the set s", "the counter n",
        "the chain c", "rule 1 of the chain c", "rule 2 of the chain c",
    ]  # fmt: skip


FLAGS = {
    "a table must be new": (0, 0x600),
    "a set is made": (9, 0x400),
    "elements are made": (12, 0x400),
    "a counter is made": (18, 0x400),
    "a chain is made": (3, 0x400),
    "a rule goes to the end": (6, 0xC00),
}


@pytest.mark.parametrize(("kind", "flags"), FLAGS.values(), ids=FLAGS)
def test_flags(kind: int, flags: int) -> None:
    """Every kind of message asks for what it means: NLM_F_CREATE, EXCL, APPEND."""
    assert {each.flags for each in encode.make_table("t", guard()) if each.kind == kind} == {flags}


SMALL: dict[str, tuple[Message, int, Tree]] = {
    "delete": (encode.delete_table("t"), 2, [(1, b"t\0")]),
    "flush": (encode.flush_set("t", "shut"), 14, [(1, b"t\0"), (2, b"shut\0")]),
    "read": (encode.read_counter("t", "n"), 19, [(1, b"t\0"), (2, b"n\0"), (3, number(1))]),
}


@pytest.mark.parametrize(("message", "kind", "body"), SMALL.values(), ids=SMALL)
def test_small_messages(message: Message, kind: int, body: Tree) -> None:
    """Deletion, flush and question name what they mean and nothing else; framed, they are in subsystem 10."""
    assert (message.kind, message.flags, tree(message.body)) == (kind, 0, body)
    [seen] = messages(frame(message, 7))
    assert (seen.kind, seen.flags, seen.sequence, seen.family) == (10 << 8 | kind, 1, 7, 1)


def guard(*selectors: Selector, hooks: tuple[Hook, ...] = (Hook.INPUT, Hook.FORWARD)) -> Ruleset:
    nonces = {hook: 1000 + hook for hook in hooks}
    return guard_ruleset(Family.IPV4, selectors, dict.fromkeys(hooks, 0), nonces, open_again_seconds=30)


@pytest.mark.parametrize("sequence", [0, 1, 0xFFFFFFF0], ids=["zero", "one", "about to wrap"])
def test_batch(sequence: int) -> None:
    """A batch is one transaction: begin, the messages, end, numbered in a row, only the last one acknowledged."""
    made = encode.make_table("t", guard(Selector(Hook.INPUT, (Condition(protocol=6),))))
    seen = messages(batch(made, sequence))
    begin, *inner, end = seen
    assert (begin.kind, end.kind) == (0x10, 0x11)
    assert [(each.flags, each.family, each.resource, each.attributes) for each in (begin, end)] == [
        (1, 0, b"\0\x0a", []),
        (1, 0, b"\0\x0a", []),
    ]
    assert [each.kind for each in inner] == [10 << 8 | each.kind for each in made]
    assert [each.flags for each in inner] == [1 | each.flags | (4 if each is made[-1] else 0) for each in made]
    assert {(each.family, each.version, each.resource, each.port) for each in inner} == {(1, 0, b"\0\0", 0)}
    assert [each.sequence for each in seen] == [(sequence + i) & 0xFFFFFFFF for i in range(len(seen))]


NAME = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=31)
BYTES = st.binary(min_size=1, max_size=16)
RANDOM_EXPRESSION = st.one_of(
    st.builds(Meta, st.sampled_from(MetaKey)),
    st.builds(Payload, st.sampled_from(Header), st.integers(0, 255), st.integers(1, 16)),
    BYTES.map(lambda mask: Bitwise(mask, mask[::-1])),
    st.builds(Compare, st.sampled_from(Relation), BYTES),
    st.integers(1, 16).flatmap(
        lambda size: st.lists(st.binary(min_size=size, max_size=size), min_size=2, max_size=2).map(
            lambda ends: Range(Relation.EQ, min(ends), max(ends))
        )
    ),
    st.builds(Lookup, NAME),
    st.builds(CountIn, NAME),
    st.sampled_from(Verdict),
)


@given(st.lists(st.lists(RANDOM_EXPRESSION, max_size=6).map(tuple), max_size=4).map(tuple), NAME, NAME)
def test_any_rules_keep_their_structure(rules: tuple[Any, ...], table: str, chain: str) -> None:
    """Whatever the rules and names, the batch can be read to its last byte, and every expression is where it was."""
    made = encode.make_table(table, Ruleset(chains=(BaseChain(chain, Hook.INPUT, 0, rules),)))
    inner = messages(batch(made, 1))[3:-1]
    found = [[(name, data or []) for _, [(_, name), (_, data)] in dict(each.attributes)[4]] for each in inner]
    assert found == [[expression(each) for each in rule] for rule in rules]


INVALID: dict[str, Callable[[], object]] = {
    "nothing to compare": lambda: Compare(Relation.EQ, b""),
    "more than a register": lambda: Compare(Relation.EQ, bytes(17)),
    "a load of nothing": lambda: Payload(Header.NETWORK, 0, 0),
    "a load of more than a register": lambda: Payload(Header.NETWORK, 0, 17),
    "a key of more than all registers": lambda: Key(Header.NETWORK, 0, 65),
    "a mask of another length": lambda: Bitwise(b"\xff", b"\0\0"),
    "a range that ends before it begins": lambda: Range(Relation.EQ, b"\2", b"\1"),
    "a range of two lengths": lambda: Range(Relation.EQ, b"\1", b"\1\1"),
    "an element that is gone at once": lambda: Element(b"\6", 0),
}


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID)
def test_refuses(make: Callable[[], object]) -> None:
    """What the kernel could not take is refused where it is said."""
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("length", [3, 5, 70])
def test_a_broken_answer_is_noticed(length: int) -> None:
    """An attribute that claims more, or less, than there is raises instead of being read past its end."""
    data = struct.pack("=HH", length, 1) + bytes(0 if length == 5 else 4)
    with pytest.raises(ValueError):
        list(wire.attributes(data))
