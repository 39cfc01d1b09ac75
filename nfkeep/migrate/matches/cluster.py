"""`-m cluster`: the connection belongs to these nodes, by a hash of its source (xt_cluster_mt() in xt_cluster.c).

With IPv4, nft_jhash_eval() is the same function of the same octets, on little-endian hosts; with IPv6 the kernel hashes
only the first 32 bits of the address (NF_CT_TUPLE_L3SIZE is a number of words). The match also takes frames for the
host's own that were sent to a multicast address of the link; nft can do that in PREROUTING.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.entries import NO_PACKET
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--cluster-local-nodemask": 1,
    "--cluster-local-node": 1,
    "--cluster-total-nodes": 1,
    "--cluster-hash-seed": 1,
}
_WITHOUT_FRAMES_OF_OTHERS = frozenset({"FORWARD", "OUTPUT", "POSTROUTING"})  # ip_forward() drops them


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """The frame made the host's own, then one test."""
    nodes = match.option("--cluster-local-nodemask", "--cluster-local-node")
    total, seed = match.option("--cluster-total-nodes"), match.option("--cluster-hash-seed")
    if nodes is None or total is None or seed is None:
        raise ValueError("an option is missing")
    mask = int(nodes.value, 0) if nodes.name.endswith("mask") else 1 << (int(nodes.value, 0) - 1)
    own = tuple(str(node) for node in range(int(total.value, 0)) if mask >> node & 1)
    if not own:
        raise ValueError(nodes.value)
    if context.v6:
        raise Lost("ip6tables hashes only the first 32 bits of the source, which nft cannot", "mark by prefix instead")
    context.approximate(match, "connections that a helper expected are hashed by their own source, not their master's")
    hashed = f"jhash ct original ip saddr mod {int(total.value, 0)} seed {int(seed.value, 0):#x}"
    return (*_own_frames(context), Test(hashed, own, nodes.negated))


def _own_frames(context: Context) -> tuple[Part, ...]:
    if context.chain in _WITHOUT_FRAMES_OF_OTHERS:
        return ()
    if context.chain != "PREROUTING":
        raise Lost("nft can take frames to a multicast address for its own only in PREROUTING", "move the rule there")
    to_one = Test("ip daddr", ("224.0.0.0/4",), negated=True)
    take = (Test("meta pkttype", ("multicast",)), to_one, Statement("meta pkttype set host"))
    return (AnyOf((take, (Test(NO_PACKET.left, NO_PACKET.values, negated=True),))),)
