"""`-j DNAT`: another destination (xt_nat.c, nft_nat.c: both hand a range to nf_nat_setup_info())."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.nat import FLAGS, Ports, flags, parse_range
from nfkeep.migrate.parts import Statement
from nfkeep.migrate.transport import protocol_again
from nfkeep.migrate.values import number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--to-destination": 1, **FLAGS}
_MOST = 65535
_LONGEST_MAP = 4096


def translate(target: Extension, context: Context) -> tuple[Simple, ...]:
    """One statement, the last one: it accepts."""
    wanted = [option for option in target.options if option.name == "--to-destination"]
    if len(wanted) != 1:
        raise Lost("there are several destinations", "Linux takes only one since 2.6.11")
    addresses, ports = parse_range(wanted[0].value, v6=context.v6)
    if ports is None:
        return (Statement(f"dnat to {addresses}{flags(target)}"),)
    if ports.base is not None and ports.first != ports.last:
        return _shifted(addresses, ports, target, context)
    return (*protocol_again(context), Statement(f"dnat to {addresses}:{ports}{flags(target)}"))


def _shifted(addresses: str, ports: Ports, target: Extension, context: Context) -> tuple[Simple, ...]:
    """Ports by their distance from a base (NF_NAT_RANGE_PROTO_OFFSET in nf_nat_l4proto_unique_tuple(), nf_nat_core.c).

    nft has a map of one port each instead: the kernel may not go on to the next port if that one is taken.
    """
    assert ports.base is not None
    low, high = _matched(context)
    size = ports.last - ports.first + 1
    elements = ", ".join(f"{n} : {ports.first + (n - ports.base) % (_MOST + 1) % size}" for n in range(low, high + 1))
    context.approximate(
        f"-j {target}",
        "iptables takes the next port of the range if one connection has the same addresses and ports already;"
        " nft drops the packet then",
    )
    text = f"dnat to {addresses}:{context.protocol} dport map {{ {elements} }}{flags(target)}"
    return (*protocol_again(context), Statement(text))


def _matched(context: Context) -> tuple[int, int]:
    """The ports that the rule lets through, if it says so itself."""
    for match in context.rule.matches:
        option = match.option("--dport")
        if match.name == context.protocol and option and not option.negated:
            low, high = number_range(option.value, _MOST)
            if 0 <= high - low < _LONGEST_MAP:
                return low, high
    raise Lost(
        "nft has no ports by their distance from a base, only a map of single ports",
        f"say with --dport which ports are meant, {_LONGEST_MAP} at most",
    )
