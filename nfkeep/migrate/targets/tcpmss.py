"""`-j TCPMSS`: the largest segment that a TCP connection offers (tcpmss_mangle_packet() in xt_TCPMSS.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--set-mss": 1, "--clamp-mss-to-pmtu": 0}
_DEFAULTS = {False: 536, True: 1220}  # what a peer has to assume without the option: RFC 1122, RFC 2460


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """An option that is there is never raised, by either (nft_exthdr_tcp_set_eval()).

    `rt mtu` is what the route and the one back leave for a segment (get_tcpmss() in nft_rt.c); above an MTU of 65535,
    which IPv6 has on lo, it says 536 (TCP_MSS_DEFAULT), where iptables changes nothing that a host would send.
    A TCP header that is cut short, which TCPMSS drops, goes on here.
    """
    option = target.option("--set-mss")
    guard = "rt mtu != 536 " if context.v6 and option is None else ""
    new = "rt mtu" if option is None else str(int(option.value, 0))
    if not _option_is_there(context):
        default = _DEFAULTS[context.v6]
        context.approximate(
            f"-j {target}",
            f"a SYN without the option, or with a malformed one, stays so; iptables adds it, with {default} at most",
            f"a peer has to assume {default} without it, so it matters only where less is wanted",
        )
    return (Statement(f"tcp option maxseg length 4 {guard}tcp option maxseg size set {new}"),)


def _option_is_there(context: Context) -> bool:
    """Whether the rule takes only packets that have the option (tcpmss_mt() in xt_tcpmss.c)."""
    return any(
        match.name == "tcpmss" and any(option.name == "--mss" and not option.negated for option in match.options)
        for match in context.rule.matches
    )
