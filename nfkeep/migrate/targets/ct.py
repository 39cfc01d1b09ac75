"""`-j CT`: how conntrack is to take the packet (xt_ct_target() and xt_ct_tg_check() in xt_CT.c).

iptables prepares the entry before conntrack looks at the packet, and only the first CT that a packet meets counts. nft
does that with zones only. Helpers and events it gives to the entry itself, in a chain behind conntrack; to the packet a
zone is given then, too, the usual one, so that no other CT and no NOTRACK counts for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.head import protocol_name
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.names import quoted
from nfkeep.migrate.parts import Statement, Test
from nfkeep.migrate.targets import notrack
from nfkeep.migrate.tracked import INDIFFERENT, behind_conntrack, target_of

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--notrack": 0, "--helper": 1, "--timeout": 1, "--ctevents": 1, "--expevents": 1, "--zone": 1, "--zone-orig": 1,
    "--zone-reply": 1,
}  # fmt: skip
_ZONES = {"--zone": "ct zone", "--zone-orig": "ct original zone", "--zone-reply": "ct reply zone"}
_EVENTS = ("new", "related", "destroy", "reply", "assured", "protoinfo", "helper", "mark", "natseqinfo", "secmark")


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """The statements for here; those for the chain behind conntrack go there."""
    if target.option("--notrack"):
        return notrack.translate(target, context)
    if option := target.option("--timeout"):
        raise Lost(
            "the rule names a policy that only the kernel has; nft wants its numbers",
            f"nfct get timeout {option.value}, and an object ct timeout of nft",
        )
    if target.option("--expevents"):
        raise Lost("nft has no choice of events of expectations", "leave them out, if that will do")
    zones = [each for option in target.options if option.name in _ZONES for each in _zone(option)]
    statements = tuple(zones) if zones or not _counts_later(context) else _set_zone("ct zone", 0)
    helper, events = target.option("--helper"), target.option("--ctevents")
    if helper or events:
        behind_conntrack(context, events=events is not None)
    if helper:
        context.tracked.append(Statement(f"ct helper set {quoted(_helper(helper.value, context), 'a name')}"))
    if events:
        context.tracked += _events(events, target, context)
    return statements


def _zone(option: Option) -> tuple[Simple, ...]:
    if option.value == "mark":
        raise Lost(
            "nft has no zone by the packet's mark", "ct zone set meta mark map { MARK : ZONE }, if that will load"
        )
    return _set_zone(_ZONES[option.name], int(option.value, 0))


def _set_zone(what: str, number: int) -> tuple[Simple, ...]:
    """Not for a packet that has become untracked before: nft would have it tracked again (nft_ct_set_zone_eval())."""
    return Test("ct state", ("untracked",), negated=True), Statement(f"{what} set {number}")


def _counts_later(context: Context) -> bool:
    """Whether a packet may meet another CT or NOTRACK after this rule."""
    return context.policy is None or any(target_of(rule) not in INDIFFERENT for rule in context.later)


def _helper(name: str, context: Context) -> str:
    """The object of a helper; both come to an entry before it is confirmed (nft_ct_helper_obj_eval())."""
    if context.protocol not in ("tcp", "udp"):
        raise Lost(f"a helper for the protocol {context.protocol} is none that nft can name")
    protocol = protocol_name(context.protocol)
    body = (f"type {quoted(name, 'the helper')} protocol {protocol};", f"l3proto {context.ip};")
    return context.objects.declare("ct helper", f"{name}-{protocol}", body)


def _events(option: Option, target: Extension, context: Context) -> tuple[Simple, ...]:
    """For what begins a connection only: iptables' template is of no use to a later packet (init_conntrack())."""
    mask = sum(1 << _EVENTS.index(name) for name in option.value.split(","))
    context.approximate(
        f"-j {target}",
        "iptables holds back the events of expectations too, and chooses none if nobody listened to conntrack when"
        " the rules were loaded (nf_ct_ecache_ext_add())",
    )
    new = (Test("ct state", ("new", "related")), Test("ct direction", ("original",)))
    return (*new, Statement(f"ct event set {mask:#x}"))
