"""Entries of the connection tracking: whether a packet has one."""

from __future__ import annotations

from nfkeep.migrate.parts import Test

NO_ENTRY = ("invalid", "untracked")
"""The states of packets without an entry (nft_ct_get_eval() in nft_ct.c, conntrack_mt() in xt_conntrack.c alike)."""

HAS_ENTRY = Test("ct state", NO_ENTRY, negated=True)
"""The packet has an entry."""

NO_PACKET = Test("meta length", ("0",))
"""What no packet is: for what has to be in the ruleset without ever being done."""

TRACKED_NEVER = (HAS_ENTRY, NO_PACKET)
"""Never, by a rule that has connections tracked (and fragments put together) all the same, as iptables' does."""
