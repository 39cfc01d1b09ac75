"""`-m connlimit`: how many connections an address or a network has (connlimit_mt() in xt_connlimit.c).

A dynamic set of nft counts by the same code (nf_conncount_add_skb()), one list for each address; the kernel removes
an element whose connections are all gone (nft_rhash_gc()). iptables' table has no end, a set has: it has room for as
many addresses as conntrack has for connections on a host with the default nf_conntrack_max, or more.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--connlimit-upto": 1, "--connlimit-above": 1, "--connlimit-mask": 1, "--connlimit-saddr": 0,
    "--connlimit-daddr": 0,
}  # fmt: skip
_SIZE = 262144
_ZONES = ("--zone", "--zone-orig", "--zone-reply")


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """A set of the rule's own: as in iptables, no two rules share a count."""
    over = match.option("--connlimit-above", "--connlimit-upto")
    assert over is not None, "iptables demands one"
    above = (over.name == "--connlimit-above") != over.negated
    side = "daddr" if match.option("--connlimit-daddr") else "saddr"
    key = kind = f"{context.ip} {side}"
    mask = match.option("--connlimit-mask")
    network = ipaddress.ip_network(
        f"{'::' if context.v6 else '0.0.0.0'}/{mask.value if mask else 128 if context.v6 else 32}"
    )
    if network.prefixlen < network.max_prefixlen:
        key = f"{key} & {network.netmask}"
    if context.survey.says(*_ZONES):
        key, kind = f"{key} . ct zone", f"{kind} . ct zone"
        context.approximate(
            match, "a packet without a connection is not counted", "count such packets in a rule of their own"
        )
    name = context.objects.fresh(f"connlimit-{context.chain}")
    name = context.objects.declare("set", name, (f"typeof {kind}", f"size {_SIZE}", "flags dynamic"))
    return (Statement(f"add @{name} {{ {key} ct count {'over ' if above else ''}{int(over.value)} }}"),)
