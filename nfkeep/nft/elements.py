"""Elements of sets over a raw nfnetlink socket that stays open: packed, sent and read in C.

net/netfilter/nf_tables_api.c, nf_tables_newsetelem() and its neighbours.
"""

from __future__ import annotations

import errno

from nfkeep.nft._ffi import ADD, DELETE, ElementSocket, Found, HostPair, SetHandle, fail, ipset_lines

__all__ = ["ADD", "DELETE", "ElementSocket", "Found", "HostPair", "SetHandle", "fail", "ipset_lines", "read_set"]

_DUMPS = 10


def read_set(opened: ElementSocket, family: int, table: str, name: str, key_bytes: int) -> list[Found] | None:
    """What anybody's set holds whose keys are of so many bytes; None if there is no such set.

    One that others change as it is read is read again, a few times; then an element may be missing or there twice.
    Raises PermissionDeniedError, NfkeepError.
    """
    handle = SetHandle(opened, table, name, key_bytes, family=family)
    number, found, changed = handle.dump()
    for _ in range(_DUMPS):
        if number or not changed:
            break
        number, found, changed = handle.dump()
    if number in (errno.ENOENT, errno.EBADMSG):  # EBADMSG: its keys are others
        return None
    if number:
        raise fail(number, f"reading the set {name} of the table {table}")
    return found
