"""`-m hashlimit`: a limit for each address, port, or both (hashlimit_mt_common() in xt_hashlimit.c).

A packet whose key finds no room, or whose ports cannot be read, is dropped, as the kernel does with it; so in nft it
goes through a chain of its own. Rules of one name that want packets above and below its rate ask the same limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.hashlimit import Asked, Limit, key_of, set_names, type_of
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Statement, Test
from nfkeep.migrate.rates import coarse

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {
    "--hashlimit-upto": 1, "--hashlimit-above": 1, "--hashlimit-burst": 1, "--hashlimit-mode": 1, "--hashlimit-name": 1,
    "--hashlimit-htable-size": 1, "--hashlimit-htable-max": 1, "--hashlimit-htable-gcinterval": 1,
    "--hashlimit-htable-expire": 1, "--hashlimit-srcmask": 1, "--hashlimit-dstmask": 1, "--hashlimit-rate-match": 0,
    "--hashlimit-rate-interval": 1,
}  # fmt: skip
_WITH_PORTS = ("tcp", "udp", "dccp", "sctp", "udplite", "esp")  # proto_ports_offset(); AH has its SPI further back
_USUAL_BYTES = 1500  # of a packet; hashlimit_byte_cost() takes none for longer than what comes in a second
_PORT_MATCHES = frozenset({"tcp", "udp", "multiport", "sctp", "dccp"})


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """A set that all rules of the name share."""
    bits = 128 if context.v6 else 32
    asked = Asked.of(match, bits)
    uses = context.survey.once(("hashlimit", asked.name), lambda: Asked.every(context.survey, asked.name, bits))
    limit = asked.limit
    if any(use.limit != limit for use in uses):
        raise Lost(
            f"rules of the name {asked.name} differ: the kernel takes the numbers of the one loaded first for all",
            "write the same in all of them, or give them different names",
        )
    _admit(match, limit, context)
    keys, limits = _declare(asked.name, limit, context)
    ways = _ways(limit, context)
    room = AnyOf(tuple((*way, Statement(f"update @{keys} {{ {key} }}")) for way, key in ways), otherwise="drop")
    over = asked.above and all(use.above for use in uses)
    rate = f"limit rate {'over ' if over else ''}{limit.rate}"
    asking = tuple((*way, Statement(f"update @{limits} {{ {key} {rate} }}")) for way, key in ways)
    return (*_no_later_fragment(limit, context), room, NoneOf(asking) if asked.above and not over else AnyOf(asking))


def _declare(name: str, limit: Limit, context: Context) -> tuple[str, str]:
    """The set of all keys, and that of their limits.

    The first one has as much room as iptables' table, the second never less.
    """
    found = []
    for set_name, size in zip(set_names(name), (limit.size, 2 * limit.size), strict=True):
        lines = (f"type {type_of(limit, context.ip)}", f"size {size}", "flags dynamic,timeout", _timeout(limit))
        found.append(context.objects.declare("set", set_name, lines))
    return found[0], found[1]


def _no_later_fragment(limit: Limit, context: Context) -> tuple[Part, ...]:
    if not limit.mode & {"srcport", "dstport"}:
        return ()
    if context.v6:
        return (NoneOf(((Test("frag frag-off", ("0",), negated=True),),)),)
    return (Test("ip frag-off & 0x1fff", ("0",)),)


def _timeout(limit: Limit) -> str:
    seconds, rest = divmod(limit.expire, 1000)
    return "timeout " + (f"{seconds}s" if seconds else "") + (f"{rest}ms" if rest or not seconds else "")


def _ways(limit: Limit, context: Context) -> list[tuple[tuple[Simple, ...], str]]:
    """The tests for each kind of protocol, and its key: protocols without ports have zeros for them."""
    if not limit.mode & {"srcport", "dstport"}:
        return [((), key_of(limit, context.ip, ("", "")))]
    protocol = context.protocol
    if protocol in ("tcp", "udp", "dccp", "sctp", "udplite"):
        return [((), key_of(limit, context.ip, (f"{protocol} sport", f"{protocol} dport")))]
    left = "meta l4proto"
    nothing = key_of(limit, context.ip, ("th sport & 0", "th dport & 0"))
    return [
        ((Test(left, _WITH_PORTS),), key_of(limit, context.ip, ("th sport", "th dport"))),
        ((Test(left, _WITH_PORTS, negated=True),), nothing),
    ]


def _admit(match: Extension, limit: Limit, context: Context) -> None:
    """Say where the rule differs a little."""
    if limit.in_bytes:
        second = limit.in_nft(over=False).rate
        most = f", and none for longer than {second}" if second < _USUAL_BYTES else ""
        context.approximate(
            match,
            f"iptables takes a packet for 1 to 16 bytes longer than it is (12 if it has 100 bytes, 4 if 1500){most}; "
            "and it grants the burst once for each key, nft again and again as it refills",
        )
    burst = match.option("--hashlimit-burst")
    if burst and not limit.in_bytes and not limit.rate.endswith(f" {int(burst.value)} packets"):
        text = limit.rate.partition("burst ")[2]
        context.approximate(match, f"the kernel's credits overflow: its burst is {text} where HZ is 250 or 1000")
    packets = 1 if limit.in_bytes else int(limit.rate.partition("burst ")[2].split()[0])
    if reason := coarse(limit.seconds_to_refill, packets):
        context.approximate(match, reason)
    if limit.uncertain:
        context.approximate(
            match,
            f"a key is forgotten after {limit.expire} ms, with iptables up to {limit.gc_interval} ms later",
        )
    if limit.mode & {"srcport", "dstport"}:
        tested = any(each.name in _PORT_MATCHES for each in context.rule.matches)
        if context.protocol is None and not tested:
            context.approximate(match, "of AH iptables takes the SPI for ports, nft takes nothing")
        if not tested:
            context.approximate(match, "later fragments do not match; iptables takes what is in them for ports")
