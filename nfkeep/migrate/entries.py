"""Entries of the connection tracking: whether a packet has one."""

from __future__ import annotations

from nfkeep.migrate.parts import Test

NO_ENTRY = ("invalid", "untracked")
"""The states of packets without an entry (nft_ct_get_eval() in nft_ct.c, conntrack_mt() in xt_conntrack.c alike)."""

HAS_ENTRY = Test("ct state", NO_ENTRY, negated=True)
"""The packet has an entry."""
