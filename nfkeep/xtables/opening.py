"""What a rule asks of a packet's place in its flow: the opening one, a later one, or any.

Layouts: struct xt_tcp (xt_tcpudp.h), xt_conntrack_mtinfo1-3 (xt_conntrack.h), xt_state_info (xt_state.h).
"""

from __future__ import annotations

import enum
import struct

from nfkeep.xtables.entry import Entry, Extension

_SYN, _ACK, _RST, _FIN = 0x02, 0x10, 0x04, 0x01
# XT_CONNTRACK_STATE_BIT(ctinfo) = 1 << (ctinfo % 3 + 1), XT_CONNTRACK_STATE_INVALID = 1
_ESTABLISHED, _RELATED, _NEW = 0x02, 0x04, 0x08
_STATE_FLAG = 1


class Place(enum.Flag):
    """The packets of a flow that a rule lets through to its target."""

    OPENING = enum.auto()
    LATER = enum.auto()


def places(entry: Entry) -> Place:
    """Which packets of a flow can match; anything not understood can match them all."""
    found = Place.OPENING | Place.LATER
    for match in entry.matches:
        if match.name == "tcp" and match.revision == 0:
            found &= _flags(match.data)
        elif match.name in ("conntrack", "state"):
            found &= _states(match)
    return found


def asks_state(entry: Entry) -> bool:
    """Whether the rule looks at the conntrack state, so that an opening packet must really be NEW."""
    return any(match.name in ("conntrack", "state") for match in entry.matches)


def _flags(data: bytes) -> Place:
    mask, wanted, inverted = data[9], data[10], bool(data[11] & 4)
    if not mask:
        return Place.OPENING | Place.LATER
    opening = ((_SYN & mask) == wanted) != inverted
    # A later packet can carry any flags but SYN alone; what excludes all of those asks for the opening one.
    later = any(((flags & mask) == wanted) != inverted for flags in range(64) if flags & (_ACK | _RST | _FIN))
    return (Place.OPENING if opening else Place(0)) | (Place.LATER if later else Place(0))


def _states(match: Extension) -> Place:
    mask = _state_mask(match)
    if mask is None:
        return Place.OPENING | Place.LATER
    opening = bool(mask & _NEW)
    later = bool(mask & (_ESTABLISHED | _RELATED))
    return (Place.OPENING if opening else Place(0)) | (Place.LATER if later else Place(0))


def _state_mask(match: Extension) -> int | None:
    """The states that match, inversion applied; None if the match does not ask for a state."""
    if match.name == "state":
        (mask,) = struct.unpack_from("=I", match.data)
        return int(mask)
    if match.revision not in (1, 2, 3):
        return None
    flags, inverted = struct.unpack_from("=HH", match.data, 146)
    if not flags & _STATE_FLAG:
        return None
    wide = match.revision >= 2
    (mask,) = struct.unpack_from("=H" if wide else "=B", match.data, 150)
    return ~int(mask) if inverted & _STATE_FLAG else int(mask)
