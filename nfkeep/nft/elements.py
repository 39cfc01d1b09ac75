"""Elements of sets over a raw nfnetlink socket that stays open: packed, sent and read in C.

net/netfilter/nf_tables_api.c, nf_tables_newsetelem() and its neighbours.
"""

from __future__ import annotations

from nfkeep.nft._ffi import ADD, DELETE, ElementSocket, Found, HostPair, SetHandle, fail, ipset_lines

__all__ = ["ADD", "DELETE", "ElementSocket", "Found", "HostPair", "SetHandle", "fail", "ipset_lines"]
