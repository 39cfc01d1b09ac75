"""Fragments: iptables' matches of transport headers look into first ones only (`par->fragoff` in xt_tcpudp.c, …).

nft does so too where it reads the header the slow way (nft_payload_eval() in nft_payload.c); the fast way takes later
fragments for headers (nft_payload_fast_eval() in nf_tables_core.c). With conntrack there are none: nf_defrag_ipv4 and
nf_defrag_ipv6 put packets together before any table sees them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nfkeep.migrate.names import comment
from nfkeep.migrate.parts import NoneOf, Statement, Test
from nfkeep.migrate.source import rules_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.layout import Chain
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.source import Source

# What needs conntrack in iptables (nf_ct_netns_get() when the rule is checked), and as an expression of nft too.
_NEED_CONNTRACK = {
    "-m": {"conntrack", "state", "connmark", "connbytes", "connlabel", "connlimit", "helper"},
    "-j": {"CT", "CONNMARK", "SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP"},
}
_SMALLEST = 8
"""Bytes that the first fragment of a packet has at least."""


def uses_conntrack(source: Source) -> bool:
    """Whether a rule has the kernel follow connections."""
    return any(
        word in _NEED_CONNTRACK and following in _NEED_CONNTRACK[word]
        for _, _, rule in rules_of(source)
        for word, following in zip(rule.words, rule.words[1:], strict=False)
    )


def have_tracked(chains: Sequence[Chain]) -> None:
    """Add a rule that has the kernel follow connections, if none of these does: those that did can never match."""
    if chains and not any(_TRACKING.search(_QUOTED.sub("", str(line))) for chain in chains for line in chain.lines):
        chains[0].add(
            (Test("ct state", ("0",)), Statement(comment("no packet matches: for connections to be tracked")))
        )


_QUOTED = re.compile(r'"[^"]*"|^#.*')
_TRACKING = re.compile(r"\b(?:ct|snat|dnat|masquerade|redirect)\b")


def first_fragment(context: Context, header: int) -> tuple[Part, ...]:
    """That a packet is no later fragment; `header` is how many bytes the match wants to see at least."""
    if context.defragmented:
        if context.v6:  # nf_ct_frag6_gather() in nf_conntrack_reasm.c lets go what is -EPROTO
            context.approximate_in_general(
                "fragments",
                "malformed later fragments, which conntrack leaves alone, never match with iptables; here they can",
                "no host puts them together either: nothing needs to be done",
            )
        return ()
    if header > _SMALLEST:
        admit(context)
    if context.v6:
        return (NoneOf(((Test("frag frag-off", ("0",), negated=True),),)),)
    return (Test("ip frag-off & 0x1fff", ("0",)),)


def admit(context: Context) -> None:
    """Say which fragments iptables drops by itself where a rule looks for the protocol, or behind it."""
    if context.v6:  # ip6_packet_match() in ip6_tables.c
        dropped = "later fragments that begin with an extension header, and first ones too short for the header"
    else:  # tcp_mt() in xt_tcpudp.c
        dropped = "fragments of TCP that begin 8 bytes behind its start, and first ones too short for the header"
    context.approximate_in_general(
        "fragments",
        f"iptables drops {dropped}; here they only do not match",
        "use conntrack, which puts packets together, or drop fragments",
    )
