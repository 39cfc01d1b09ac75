"""What is behind the ports: TCP flags and options, ICMP types, chunks of SCTP, types of DCCP, numbers of AH and ESP."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nfkeep.migrate.verify import wire
from nfkeep.migrate.verify.fields.choices import Choices, around, each, generates, number_range
from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

_FLAGS = {name: 1 << bit for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG"))}
_FLAGS |= {"ALL": 0x3F, "NONE": 0}
_COMMON: tuple[int, ...] = (wire.SYN, wire.SYN | wire.ACK, wire.ACK, wire.FIN | wire.ACK, wire.RST, wire.RST | wire.ACK)
_COMMON += (0x18, 0, wire.FIN, wire.SYN | wire.FIN, wire.SYN | wire.RST, 0x29, 0x3F, 0xFF, 0xC2)


def _flag_bits(text: str) -> int:
    return sum(_FLAGS[name] for name in set(text.upper().split(",")))


@generates("--tcp-flags")
def tcp_flags(word: Word, setting: Setting) -> Choices:
    """Each flag of the mask turned alone, the flags beside the mask, and the usual combinations."""
    return _by_flags(_flag_bits(word.values[0]), _flag_bits(word.values[1]))


@generates("--syn")
def syn(word: Word, setting: Setting) -> Choices:
    """As --tcp-flags FIN,SYN,RST,ACK SYN."""
    return _by_flags(wire.FIN | wire.SYN | wire.RST | wire.ACK, wire.SYN)


def _by_flags(mask: int, wanted: int) -> Choices:
    tried = [wanted, wanted | (~mask & 0xFF)]
    tried += [wanted ^ 1 << bit for bit in range(8)] + list(_COMMON)
    tried = list(dict.fromkeys(tried))
    holds = tuple({"flags": flags} for flags in tried if flags & mask == wanted)
    return Choices(holds, tuple({"flags": flags} for flags in tried if flags & mask != wanted))


_OPTION_BYTES = {2: b"\2\4\5\xb4", 3: b"\3\3\7", 4: b"\4\2", 8: b"\x08\n" + bytes(8), 1: b"\1"}


@generates("--tcp-option")
def tcp_option(word: Word, setting: Setting) -> Choices:
    """The option alone, behind others, not there."""
    number = int(word.value)
    data = _OPTION_BYTES.get(number, bytes([number, 4, 0, 0]))
    others = b"".join(value for kind, value in _OPTION_BYTES.items() if kind != number and kind in (2, 3))
    return Choices(
        ({"tcp_options": data}, {"tcp_options": others + data}), ({"tcp_options": b""}, {"tcp_options": others})
    )


@generates("--mss", match="tcpmss")
def mss(word: Word, setting: Setting) -> Choices:
    """Sizes at the ends of the range and beside it; no such option; the option behind another."""
    inside, outside = around(*number_range(word.value, 65535), 65535)
    options = [struct.pack("!BBH", 2, 4, value) for value in inside]
    holds = [{"tcp_options": each} for each in options] + [{"tcp_options": b"\1\1\4\2" + options[0]}]
    fails = [{"tcp_options": struct.pack("!BBH", 2, 4, value)} for value in outside] + [{"tcp_options": b""}]
    return Choices(tuple(holds), tuple(fails))


_ICMP = {
    "any": (255, None),
    "echo-reply": (0, None),
    "pong": (0, None),
    "destination-unreachable": (3, None),
    "network-unreachable": (3, 0),
    "host-unreachable": (3, 1),
    "protocol-unreachable": (3, 2),
    "port-unreachable": (3, 3),
    "fragmentation-needed": (3, 4),
    "source-quench": (4, None),
    "redirect": (5, None),
    "echo-request": (8, None),
    "ping": (8, None),
    "router-advertisement": (9, None),
    "router-solicitation": (10, None),
    "time-exceeded": (11, None),
    "ttl-exceeded": (11, None),
    "parameter-problem": (12, None),
    "timestamp-request": (13, None),
    "timestamp-reply": (14, None),
    "address-mask-request": (17, None),
    "address-mask-reply": (18, None),
}
_ICMPV6 = {
    "destination-unreachable": (1, None),
    "no-route": (1, 0),
    "communication-prohibited": (1, 1),
    "address-unreachable": (1, 3),
    "port-unreachable": (1, 4),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None),
    "ttl-zero-during-transit": (3, 0),
    "parameter-problem": (4, None),
    "bad-header": (4, 0),
    "unknown-header-type": (4, 1),
    "unknown-option": (4, 2),
    "echo-request": (128, None),
    "echo-reply": (129, None),
    "router-solicitation": (133, None),
    "router-advertisement": (134, None),
    "neighbour-solicitation": (135, None),
    "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None),
    "neighbor-advertisement": (136, None),
    "redirect": (137, None),
}


@generates("--icmp-type", "--icmpv6-type")
def icmp_type(word: Word, setting: Setting) -> Choices:
    """The type with its code and others, other types with that code."""
    names = _ICMP if word.name == "--icmp-type" else _ICMPV6
    found = names.get(word.value)
    if found is None:
        kind_text, _, code_text = word.value.partition("/")
        found = int(kind_text), int(code_text) if code_text else None
    kind, code = found
    usual = (8, 0, 3, 11, 255) if setting.family is Family.IPV4 else (128, 129, 1, 135, 255)
    if kind == 255 and code is None and setting.family is Family.IPV4:  # "any"
        return Choices(tuple({"icmp_type": each, "icmp_code": 0} for each in usual), ())
    codes = [0, 1, 255] if code is None else [code]
    holds = [{"icmp_type": kind, "icmp_code": each} for each in codes]
    fails = [{"icmp_type": each, "icmp_code": code or 0} for each in (*usual, kind - 1, kind + 1)]
    fails = [each for each in fails if each["icmp_type"] != kind and 0 <= each["icmp_type"] <= 255]
    if code is not None:
        fails[:0] = [{"icmp_type": kind, "icmp_code": each} for each in (code - 1, code + 1) if 0 <= each <= 255]
    return Choices(tuple(holds), tuple(fails))


@generates("--chunk-types")
def chunks(word: Word, setting: Setting) -> Choices:
    """Packets of one chunk of each common type, of the named ones together, of those and another one."""
    names = ["DATA", "INIT", "INIT_ACK", "SACK", "HEARTBEAT", "HEARTBEAT_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK"]
    names += ["ERROR", "COOKIE_ECHO", "COOKIE_ACK", "ECN_ECNE", "ECN_CWR", "SHUTDOWN_COMPLETE"]
    wanted = [
        names.index(text.partition(":")[0]) for text in word.values[-1].split(",") if text.partition(":")[0] in names
    ]
    together = b"".join(map(_chunk, wanted or [0]))
    tried = [{"chunks": together}, {"chunks": together + _chunk(7)}, *({"chunks": _chunk(kind)} for kind in range(15))]
    tried += [{"chunks": _chunk(0, flags)} for flags in (1, 2, 4, 7)]
    return Choices(tuple(tried[:1]), tuple(tried[1:]))


def _chunk(kind: int, flags: int = 3) -> bytes:
    return struct.pack("!BBHIHHI", kind, flags, 16, 1, 9, 1, 1)


@generates("--dccp-types")
def dccp_types(word: Word, setting: Setting) -> Choices:
    """All types."""
    names = ["REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK"]
    wanted = word.value.split(",")
    kinds = {number for number, name in enumerate(names) if name in wanted}
    kinds |= set(range(10, 16)) if "INVALID" in wanted else set()
    found = each("dccp_type", (sorted(kinds), [kind for kind in range(12) if kind not in kinds]))
    return Choices(found.holds, found.fails)


@generates("--dccp-option")
def dccp_option(word: Word, setting: Setting) -> Choices:
    """With the option, with another one, with none."""
    number = int(word.value)
    data = bytes([number, 4, 0, 0]) if number >= 32 else bytes([number])
    other = bytes([number ^ 1, 4, 0, 0]) if number >= 32 else bytes([number ^ 1])
    return Choices(({"dccp_options": data},), ({"dccp_options": b""}, {"dccp_options": other}))


@generates("--ahspi", "--espspi")
def spi(word: Word, setting: Setting) -> Choices:
    """The ends of the range and their neighbours; with AH in IPv6 as an extension header, too."""
    values = around(*number_range(word.value, 2**32 - 1), 2**32 - 1)
    if word.name == "--espspi" or setting.family is Family.IPV4:
        return each("spi", values)
    holds, fails = ([_behind_ah(value) for value in some] for some in values)
    return Choices(tuple(holds), (*fails, {"extensions": ()}))


def _behind_ah(value: int) -> dict[str, object]:
    return {"extensions": ((wire.AH, wire.authentication_header(value, Family.IPV6)),)}


@generates("--ipcompspi")
def ipcomp_spi(word: Word, setting: Setting) -> Choices:
    """The ends of the range and their neighbours, in 16 bits."""
    return each("spi", around(*number_range(word.value, 0xFFFF), 0xFFFF))


@generates("--mh-type")
def mobility_type(word: Word, setting: Setting) -> Choices:
    """Types at the ends and beside them."""
    names = ["brr", "hoti", "coti", "hot", "cot", "bu", "ba", "be"]
    text = word.value.lower()
    low, high = (names.index(text),) * 2 if text in names else number_range(text, 255)
    holds, fails = ([_mobility(kind) for kind in kinds] for kinds in around(low, high, 255))
    return Choices(tuple(holds), tuple(fails))


def _mobility(kind: int) -> dict[str, object]:
    return {"transport": struct.pack("!BBBBHH", wire.NO_NEXT, 0, kind, 0, 0, 0)}


@generates("--ahlen")
def ah_length(word: Word, setting: Setting) -> Choices:
    """A header of the length that is common here."""
    return Choices((_behind_ah(0x100),), ())
