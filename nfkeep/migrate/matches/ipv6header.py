"""`-m ipv6header`: which extension headers a packet of IPv6 has (ipv6header_mt6() in ip6t_ipv6header.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, AnyOf, NoneOf, Statement, Test

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--header": 1, "--soft": 0}

# What libip6t_ipv6header.c and /etc/protocols call them: the headers that nft has a word for, AH, and how it may end.
_NAMES = {
    "hop-by-hop": "hbh", "hop": "hbh", "hopopt": "hbh", "0": "hbh", "ipv6-route": "rt", "route": "rt", "43": "rt",
    "ipv6-frag": "frag", "frag": "frag", "44": "frag", "ipv6-opts": "dst", "dst": "dst", "60": "dst",
    "ah": "ah", "auth": "ah", "51": "ah", "esp": "esp", "50": "esp", "ipv6-nonxt": "none", "none": "none", "59": "none",
    "protocol": "proto", "prot": "proto", "proto": "proto", "255": "proto",
}  # fmt: skip
_EXTENSIONS = ("hbh", "rt", "frag", "dst")
_ENDS = {"esp": ("50",), "none": ("59",), "proto": ("0", "43", "44", "50", "51", "59", "60")}
_AH = Test("meta l4proto", ("51",))


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Exactly these headers, or with --soft at least these; negated and soft: none of these."""
    option = match.option("--header")
    assert option is not None, "libxtables insists on it"
    wanted = dict.fromkeys(_NAMES[name.lower()] for name in option.value.split(",") if name != "NONE")
    soft = match.option("--soft") is not None
    if "ah" in wanted and context.rule.of_head("-p"):
        raise Lost("nft does not see the protocol behind an authentication header", "leave out -p")
    if any(end in wanted for end in _ENDS) and (soft or "ah" in wanted):
        context.approximate(
            f"-m {match}", "what follows an authentication header and another header behind it is not seen"
        )
    if not soft:
        way = _exactly(wanted)
        if way is None:
            return () if option.negated else (NEVER,)
        return (NoneOf((way,)),) if option.negated else way
    return tuple(part for each in wanted for part in _one(each, negated=option.negated))


def _one(name: str, *, negated: bool) -> tuple[Part, ...]:
    if name in _EXTENSIONS:
        return (_extension(name, there=not negated),)
    ways = ((_AH,),) if name == "ah" else ((_end(name),), (_AH, _end(name, behind_ah=True)))
    return (NoneOf(ways) if negated else AnyOf(ways),)


def _exactly(wanted: Iterable[str]) -> tuple[Simple, ...] | None:
    """These headers and no others; None if no packet can be so, as each ends in one of three ways."""
    ends = [name for name in wanted if name in _ENDS]
    if len(ends) != 1:
        return None
    extensions = (_extension(name, there=name in wanted) for name in _EXTENSIONS)
    if "ah" in wanted:
        return (*extensions, _AH, _end(ends[0], behind_ah=True))
    return (*extensions, _end(ends[0]))


def _extension(name: str, *, there: bool) -> Statement:
    return Statement(f"exthdr {name} {'exists' if there else 'missing'}")


def _end(name: str, *, behind_ah: bool = False) -> Test:
    negated = name == "proto"
    if not behind_ah:
        return Test("meta l4proto", _ENDS[name], negated)
    # nft 1.0.6 crashes where it is told, or lists, a single number (payload_expr_pctx_update() in its src/payload.c)
    return Test("ah nexthdr", _ENDS[name] if negated else tuple(f"{each}-{each}" for each in _ENDS[name]), negated)
