"""Netlink attributes as bytes, packed and taken apart: the one place that knows of their padding.

Headers are in the byte order of the host; numbers that nf_tables puts into attributes are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

NLA_F_NESTED = 0x8000
MESSAGE_HEAD = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg; its last field is big-endian
ATTRIBUTE_HEAD = struct.Struct("=HH")  # struct nlattr
PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")


def attribute(kind: int, content: bytes) -> bytes:
    """Struct nlattr with its content, padded."""
    length = len(content)
    return ATTRIBUTE_HEAD.pack(length + 4, kind) + content + PADDING[-length & 3]


def nest(kind: int, content: bytes) -> bytes:
    """Attributes inside an attribute."""
    return ATTRIBUTE_HEAD.pack(len(content) + 4, kind | NLA_F_NESTED) + content


def string(kind: int, text: str) -> bytes:
    """NLA_NUL_STRING."""
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, number: int) -> bytes:
    """NLA_U32, as nf_tables has it; negative numbers in two's complement."""
    return ATTRIBUTE_HEAD.pack(8, kind) + (number & 0xFFFFFFFF).to_bytes(4, "big")


def u64(kind: int, number: int) -> bytes:
    """NLA_U64, as nf_tables has it."""
    return ATTRIBUTE_HEAD.pack(12, kind) + number.to_bytes(8, "big")


def data_value(kind: int, value: bytes) -> bytes:
    """A value as rules and elements hold it: NFTA_DATA_VALUE in a nest."""
    return nest(kind, attribute(1, value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each attribute, in order."""
    for _, kind, content in attributes_at(data):
        yield kind, content


def attributes_at(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Offset, type and content of each attribute, in order."""
    at = 0
    while at + 4 <= len(data):
        length, kind = ATTRIBUTE_HEAD.unpack_from(data, at)
        if not 4 <= length <= len(data) - at:
            raise ValueError(f"an attribute of {length} bytes with {len(data) - at} left")
        yield at, kind & ~NLA_F_NESTED, data[at + 4 : at + length]
        at += length + (-length & 3)
