"""Entries of the connection tracking: whether a packet has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

NO_ENTRY = ("invalid", "untracked")
"""The states of packets without an entry (nft_ct_get_eval() in nft_ct.c, conntrack_mt() in xt_conntrack.c alike)."""

HAS_ENTRY = Test("ct state", NO_ENTRY, negated=True)
"""The packet has an entry."""

NO_PACKET = Test("meta length", ("0",))
"""What no packet is: for what has to be in the ruleset without ever being done."""

TRACKED_NEVER = (HAS_ENTRY, NO_PACKET)
"""Never, by a rule that has connections tracked (and fragments put together) all the same, as iptables' does."""


def admit_template(match: Extension, context: Context) -> None:
    """Admit that behind -j CT, in the raw table, its template is an entry to iptables, but not in nft_ct_get_eval()."""
    if context.table == "raw":
        context.approximate(match, "a packet that -j CT has been at does not match in nft", "ask in a later table")
