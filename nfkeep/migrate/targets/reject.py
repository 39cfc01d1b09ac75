"""`-j REJECT`: drop, and answer (ipt_REJECT.c, ip6t_REJECT.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--reject-with": 1}
_TYPES = {
    "icmp-net-unreachable": "icmp type net-unreachable",
    "icmp-host-unreachable": "icmp type host-unreachable",
    "icmp-proto-unreachable": "icmp type prot-unreachable",
    "icmp-port-unreachable": "icmp type port-unreachable",
    "icmp-net-prohibited": "icmp type net-prohibited",
    "icmp-host-prohibited": "icmp type host-prohibited",
    "icmp-admin-prohibited": "icmp type admin-prohibited",
    "icmp6-no-route": "icmpv6 type no-route",
    "icmp6-adm-prohibited": "icmpv6 type admin-prohibited",
    "icmp6-addr-unreachable": "icmpv6 type addr-unreachable",
    "icmp6-port-unreachable": "icmpv6 type port-unreachable",
    "icmp6-policy-fail": "icmpv6 type policy-fail",
    "icmp6-reject-route": "icmpv6 type reject-route",
    "tcp-reset": "tcp reset",
}


def translate(target: Extension, context: Context) -> tuple[Statement, ...]:
    """One statement."""
    option = target.option("--reject-with")
    with_what = option.value if option else "icmp6-port-unreachable" if context.v6 else "icmp-port-unreachable"
    return (Statement(f"reject with {_TYPES[with_what]}"),)
