"""`-m connlabel`: a label of the packet's connection (connlabel_mt() in xt_connlabel.c).

Entries have room for labels only while some rule may set one (nf_connlabels_get(), for nft in nft_ct_set_init()). A
rule of iptables that only reads them counts; so nft gets a way to set it that no packet goes, and labels that other
programs give keep working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.entries import NO_PACKET
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--label": 1, "--set": 0}
_LAST = 127


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Whether it is set, or can be."""
    option = match.option("--label")
    if option is None:
        raise ValueError("no --label")
    if not option.value.isdecimal():
        raise Lost(f"the label {option.value!r} is a name of this host", "write its number")
    if int(option.value) > _LAST:
        raise ValueError(option.value)
    label = str(int(option.value))
    present, add = Test("ct label", (label,)), Statement(f"ct label set {label}")
    ways = ((add, present),) if match.option("--set") else ((present,), (NO_PACKET, add))
    return (NoneOf(ways) if option.negated else AnyOf(ways),)
