"""The IP header, its options and extension headers: TTL, TOS, lengths, fragments, hop-by-hop, routing and so on."""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.fields.choices import Choices, around, each, generates, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

_CLASSES = {"BE": 0, "EF": 46} | {f"CS{n}": n * 8 for n in range(8)}
_CLASSES |= {f"AF{a}{b}": a * 8 + b * 2 for a in range(1, 5) for b in range(1, 4)}


@generates("--ttl-eq", "--ttl", "--hl-eq", "--ttl-lt", "--hl-lt", "--ttl-gt", "--hl-gt")
def ttl(word: Word, setting: Setting) -> Choices:
    """The number, and those beside it."""
    number = int(word.value)
    if word.name.endswith("-lt"):
        return each("ttl", around(min(2, max(number - 1, 1)), max(number - 1, 1), 255, 1))
    if word.name.endswith("-gt"):
        return each("ttl", around(min(number + 1, 255), 255, 255, 1))
    return each("ttl", around(number, number, 255, 1))


@generates("--tos", match="tos")
def tos(word: Word, setting: Setting) -> Choices:
    """The value; each bit of it turned, in the mask and beside it."""
    names = {"Minimize-Delay": 16, "Maximize-Throughput": 8, "Maximize-Reliability": 4, "Minimize-Cost": 2}
    names["Normal-Service"] = 0
    value_text, _, mask_text = word.value.partition("/")
    value = names[value_text] if value_text in names else int(value_text, 0)
    mask = int(mask_text, 0) if mask_text else 0x3F if value_text in names else 0xFF
    return _bits("tos", value, mask, 8)


@generates("--dscp", "--dscp-class")
def dscp(word: Word, setting: Setting) -> Choices:
    """The class with each ECN, and other classes."""
    value = _CLASSES[word.value.upper()] if word.name == "--dscp-class" else int(word.value, 0)
    inside, outside = around(value, value, 63)
    holds = [each_ << 2 | ecn for each_ in inside for ecn in (0, 1, 3)]
    return each("tos", (holds, [other << 2 for other in outside]))


@generates("--ecn-ip-ect")
def ect(word: Word, setting: Setting) -> Choices:
    """All four, with a class and without."""
    wanted = int(word.value)
    every = [kind << 2 | ecn for kind in (0, 46) for ecn in range(4)]
    return each("tos", ([one for one in every if one & 3 == wanted], [one for one in every if one & 3 != wanted]))


@generates("--ecn-tcp-cwr", "--ecn-tcp-ece")
def tcp_ecn(word: Word, setting: Setting) -> Choices:
    """The flag with the other one and alone."""
    bit, other = (0x80, 0x40) if word.name.endswith("cwr") else (0x40, 0x80)
    values = [0x10 | bit, 2 | bit, 0x10 | bit | other], [0x10, 2, 0x10 | other]
    return each("flags", values)


@generates("--length", match="length")
def length(word: Word, setting: Setting) -> Choices:
    """The ends and their neighbours."""
    low, high = number_range(word.value, 65535)
    return each("size", around(max(low, 48), max(min(high, 1500), 48), 1500, 48))


@generates("-f")
def later_fragment(word: Word, setting: Setting) -> Choices:
    """Later fragments, in the middle and last; a first one, a whole packet."""
    holds = {"fragment": 2, "more": False}, {"fragment": 100, "more": True}
    return Choices(holds, ({"fragment": 0, "more": True}, {"fragment": 0, "more": False}))


@generates("--fragid", "--fragfirst", "--fragmore", "--fraglast", "--fragres", "--fraglen", match="frag")
def fragment(word: Word, setting: Setting) -> Choices:
    """The fragment header, by what is asked of it."""
    first = {"atomic": True, "fragment": 0, "more": True}
    last = {"atomic": True, "fragment": 3, "more": False}
    middle = {"atomic": True, "fragment": 3, "more": True}
    none = {"atomic": False, "fragment": 0, "more": False}
    if word.name == "--fragid":
        found = each("number", around(*number_range(word.value, 2**32 - 1), 2**32 - 1))
        return Choices(tuple({**middle, **one} for one in found.holds), tuple({**middle, **one} for one in found.fails))
    if word.name == "--fragfirst":
        return Choices((first,), (last, none))
    if word.name == "--fragmore":
        return Choices(({"atomic": True, "more": True},), (last, none))
    if word.name == "--fraglast":
        return Choices((last, {"atomic": True, "fragment": 0, "more": False}), (first, none))
    if word.name == "--fragres":
        return Choices(({"atomic": True, "reserved": 1},), (none, {"reserved": 0}))
    return Choices((middle, first), (none,))


@generates("--hbh-len", "--dst-len", "--hbh-opts", "--dst-opts")
def options_header(word: Word, setting: Setting) -> Choices:
    """Headers of lengths around the wanted one, or with the wanted options; with other ones, not there."""
    kind = wire.HOP_BY_HOP if "hbh" in word.name else wire.DESTINATION
    if word.name.endswith("-len"):
        number = int(word.value)
        possible = range(8, 1024, 8)
        sizes = [size for size in (number - 8, number + 8, 8, 16) if size in possible and size != number]
        holds = [_headers(kind, wire.options_header(size)) for size in (number,) if size in possible]
        return Choices(
            tuple(holds), (*(_headers(kind, wire.options_header(size)) for size in sizes), {"extensions": ()})
        )
    options = b""
    for text in word.value.split(","):
        number_text, _, size = text.partition(":")
        options += bytes([int(number_text), int(size or 2)]) + bytes(int(size or 2))
    room = -(-(len(options) + 2) // 8) * 8
    if int(word.value.split(",")[0].split(":")[0]) >= 0x40:  # such an unknown option makes the kernel drop the packet
        return Choices()
    other = _headers(kind, wire.options_header(room))
    return Choices((_headers(kind, wire.options_header(room, options)),), (other, {"extensions": ()}))


def _headers(*pairs: object) -> dict[str, object]:
    return {"extensions": (tuple(pairs),)}


@generates("--rt-type", "--rt-segsleft", "--rt-len", "--rt-0-res", "--rt-0-addrs", "--rt-0-not-strict")
def routing(word: Word, setting: Setting) -> Choices:
    """Routing headers of type 0 with none to three addresses, of type 2, with segments left, or none."""
    address = _address("2001:db8:f::1")
    kinds = [
        _headers(wire.ROUTING, wire.routing_header(kind, left, (address,) * count))
        for kind in (0, 2, 253)
        for left in (0, 1)
        for count in (0, 1, 2, 3)
    ]
    named = word.value.split(",") if word.name == "--rt-0-addrs" else []
    holds = [_headers(wire.ROUTING, wire.routing_header(0, 0, tuple(map(_address, named))))] if named else []
    if word.name == "--rt-type":
        number = int(word.value)
        holds = [_headers(wire.ROUTING, wire.routing_header(number, 0, (address,)))]
    elif word.name == "--rt-segsleft":
        low, high = number_range(word.value, 255)
        holds = [
            _headers(wire.ROUTING, wire.routing_header(0, left, (address,))) for left in (min(low, 255), min(high, 255))
        ]
    elif word.name == "--rt-len":
        count = max(0, (int(word.value.split(":")[0]) - 8) // 16)
        holds = [_headers(wire.ROUTING, wire.routing_header(0, 0, (address,) * min(count, 20)))]
    return Choices(tuple(holds), (*kinds, {"extensions": ()}))


_SRH: tuple[str, ...] = (
    "next-hdr",
    "hdr-len-eq",
    "hdr-len-gt",
    "hdr-len-lt",
    "segs-left-eq",
    "segs-left-gt",
    "segs-left-lt",
)
_SRH += ("segs-left-lt", "last-entry-eq", "last-entry-gt", "last-entry-lt", "tag", "psid", "nsid", "lsid")


@generates(*(f"--srh-{name}" for name in _SRH))
def segments(word: Word, setting: Setting) -> Choices:
    """Segment routing headers with one to three segments, and each one's values moved by one."""
    value = int(word.value) if word.value.isdigit() else 0
    tried = [
        _srh(count, left, last, tag)
        for count in (1, 2, 3)
        for left in (0, 1)
        for last in (0, count - 1, value & 255)
        for tag in (0, value & 0xFFFF)
    ]
    return Choices(tuple(tried[:1]), (*tried[1:], {"extensions": ()}))


def _address(text: str) -> bytes:
    return ipaddress.IPv6Address(text).packed


def _srh(count: int, left: int, last: int, tag: int) -> dict[str, object]:
    address = _address("2001:db8:f::1")
    body = struct.pack("!BBBBBH", count * 2, 4, left, last, 0, tag) + address * count
    return _headers(wire.ROUTING, body)


@generates("--header", match="ipv6header")
def which_headers(word: Word, setting: Setting) -> Choices:
    """Each header alone, several together, none."""
    pad = wire.options_header()
    ah = (wire.AH, wire.authentication_header(1, setting.family))
    hop, destination = (wire.HOP_BY_HOP, pad), (wire.DESTINATION, pad)
    route = (wire.ROUTING, wire.routing_header())
    rows = ((hop,), (destination,), (route,), (ah,), (hop, destination), (hop, destination, route, ah), ())
    tried: list[dict[str, object]] = [{"extensions": row} for row in rows]
    tried += [{"atomic": True}, {"protocol": wire.ESP}, {"protocol": wire.NO_NEXT, "payload": b""}]
    return Choices(tuple(tried[:1]), tuple(tried[1:]))


@generates("--flags", "--ssrr", "--lsrr", "--rr", "--ts", "--ra", "--any", match="ipv4options")
def ip_options(word: Word, setting: Setting) -> Choices:
    """Router alert, record route, source routes, a time stamp, nothing."""
    rows = [b"\x94\4\0\0", b"\x07\x07\4\0\0\0\0\0", b"\x44\x08\5\0\0\0\0\0", b"\1\1\1\1"]
    rows += [b"\x83\7\x08\n\0\0\1\0", b"\x89\7\x08\n\0\0\1\0"]
    return Choices(({"ip_options": rows[0]},), (*({"ip_options": row} for row in rows[1:]), {"ip_options": b""}))


def _bits(name: str, value: int, mask: int, width: int) -> Choices:
    tried = list(dict.fromkeys([value, value | ~mask & (1 << width) - 1, *(value ^ 1 << bit for bit in range(width))]))
    return each(name, ([one for one in tried if one & mask == value], [one for one in tried if one & mask != value]))
