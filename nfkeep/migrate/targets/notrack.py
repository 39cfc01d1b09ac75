"""`-j NOTRACK`: no entry in conntrack for this packet (notrack_tg() in xt_CT.c, nft_notrack_eval())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS: dict[str, int] = {}
_RESET = "tcp-reset"


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement.

    The kernel's answers to an untracked packet carry what is left of its state when they come to OUTPUT, and on to
    PREROUTING by `lo` (nf_conntrack_attach() in nf_conntrack_core.c): xt_CT takes them for packets that have been seen
    and lets them go on to conntrack, which finds them invalid; nft asks for a connection, which they have not.
    """
    answers = {None, "icmp", "ipv6-icmp", *(["tcp"] if context.survey.says(_RESET) else [])}
    if context.protocol in answers and ("OUTPUT" in context.hooks or _by_loopback(context)):
        context.approximate_in_general(
            target,
            "what the kernel itself answers to an untracked packet (an ICMP error, the RST of REJECT) is INVALID after"
            " this with iptables, and UNTRACKED with nft",
            "name the protocol that is not to be tracked (-p udp), or accept such answers before any rule on states",
        )
    return (Statement("notrack"),)


def _by_loopback(context: Context) -> bool:
    interface = context.rule.of_head("-i")
    return interface is None or interface.negated or interface.value in ("lo", "l+", "+")
