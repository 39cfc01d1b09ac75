"""What belongs to a packet beside its bytes: link addresses, kinds of delivery, marks, owners."""

from __future__ import annotations

import grp
import pwd
from typing import TYPE_CHECKING

from nfkeep.migrate.verify.fields.choices import Choices, around, each, generates, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.verify.fields.choices import Setting
    from nfkeep.migrate.verify.words import Word

_BROADCAST = b"\xff" * 6
_GROUPS = {4: bytes.fromhex("01005e000001"), 6: bytes.fromhex("333300000001")}


@generates("--mac-source")
def source_mac(word: Word, setting: Setting) -> Choices:
    """The address, and one that differs in its last bit."""
    address = bytes.fromhex(word.value.replace(":", ""))
    return Choices(({"source_mac": address},), ({"source_mac": address[:5] + bytes([address[5] ^ 1])},))


@generates("--pkt-type")
def packet_type(word: Word, setting: Setting) -> Choices:
    """To the interface's own address, to everybody, to a group."""
    macs = {"unicast": None, "host": None, "broadcast": _BROADCAST, "multicast": bytes.fromhex("01005e000001")}
    wanted = macs[word.value]
    holds = ({"destination_mac": wanted},)
    return Choices(holds, tuple({"destination_mac": mac} for mac in (None, _BROADCAST, _GROUPS[6]) if mac != wanted))


@generates("--mark", match="mark")
def mark(word: Word, setting: Setting) -> Choices:
    """The mark, each of its bits turned."""
    value_text, _, mask_text = word.value.partition("/")
    value, mask = int(value_text, 0), int(mask_text, 0) if mask_text else 0xFFFFFFFF
    tried = [value, value | ~mask & 0xFFFFFFFF, 0, 0xFFFFFFFF, *(value ^ 1 << bit for bit in (0, 1, 4, 8, 16, 31))]
    holds = [one for one in dict.fromkeys(tried) if one & mask == value]
    fails = [one for one in dict.fromkeys(tried) if one & mask != value]
    return each("mark", (holds, fails))


@generates("--uid-owner", "--gid-owner")
def owner(word: Word, setting: Setting) -> Choices:
    """Users at the ends of the range and beside it; a packet of nobody's (forwarded) comes with the other hooks."""
    field = "uid" if word.name == "--uid-owner" else "gid"
    low_text, found, high_text = word.value.partition("-")
    low = _number(low_text, field)
    high = _number(high_text, field) if found else low
    return each(field, around(low, min(high, 2**31 - 1), 65534))


def _number(text: str, field: str) -> int:
    if text.isdigit():
        return number_range(text, 2**31)[0]
    return pwd.getpwnam(text).pw_uid if field == "uid" else grp.getgrnam(text).gr_gid
