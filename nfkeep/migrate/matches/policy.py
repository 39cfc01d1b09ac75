"""`-m policy`: IPsec (policy_mt() in xt_policy.c).

nft knows of each association the addresses of its tunnel and its reqid (nft_xfrm.c), by its place: `spnum`, up to
XFRM_MAX_DEPTH. The SPI, too; but iptables (libxt_policy.c) hands its own over in the byte order of the host, and the
kernel compares it with the one on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import AnyOf, NoneOf, Test
from nfkeep.migrate.values import address_test, number_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--dir": 1,
    "--pol": 1,
    "--strict": 0,
    "--reqid": 1,
    "--spi": 1,
    "--proto": 1,
    "--mode": 1,
    "--tunnel-dst": 1,
    "--tunnel-src": 1,
    "--next": 0,
}
_EXISTS = {"in": "meta ipsec", "out": "rt ipsec"}
_POLICIES = {"ipsec": "exists", "none": "missing"}
_DEPTH = 6
_MOST = (1 << 32) - 1
_ABOUT_ALL = frozenset({"--dir", "--pol", "--strict"})


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """Whether there is a policy, and whether its elements are as wanted."""
    direction, policy = match.option("--dir"), match.option("--pol")
    if direction is None or policy is None:
        raise ValueError("no --dir or --pol")
    exists = Test(_EXISTS[direction.value], (_POLICIES[policy.value],))
    elements: list[list[Option]] = [[]]
    for option in match.options:
        if option.name == "--next":
            elements.append([])
        elif option.name not in _ABOUT_ALL:
            elements[-1].append(option)
    if not any(elements):
        return (exists,)
    return _elements(elements, direction.value, match.option("--strict") is not None, context)


def _elements(elements: list[list[Option]], direction: str, strict: bool, context: Context) -> tuple[Part, ...]:
    for element in elements:
        if unseen := [str(option) for option in element if option.name in ("--proto", "--mode")]:
            context.approximate(" ".join(unseen), "nft does not look at it, only at the rest of the element")
    if not strict:
        return (AnyOf(tuple(tuple(_tests(elements[0], direction, n, context)) for n in range(_DEPTH))),)
    parts: list[Part] = []
    for number, element in enumerate(elements[::-1] if direction == "in" else elements):
        parts += _tests(element, direction, number, context)
    if len(elements) < _DEPTH:
        one_more = Test(f"ipsec {direction} spnum {len(elements)} reqid", (f"0-{_MOST}",))
        parts.append(NoneOf(((one_more,),)))
    return tuple(parts)


def _tests(element: Sequence[Option], direction: str, number: int, context: Context) -> list[Simple]:
    """What one element asks of the association at this place."""
    left = f"ipsec {direction} spnum {number}"
    tunnel = any(each.name == "--mode" and each.value == "tunnel" and not each.negated for each in element)
    tests: list[Simple] = []
    for option in element:
        if option.name == "--spi":
            raise Lost("iptables compares the octets of an SPI backwards, so it asks for another one", "use the reqid")
        if option.name == "--reqid":
            tests.append(Test(f"{left} reqid", (str(number_range(option.value, _MOST)[0]),), option.negated))
        elif option.name in ("--tunnel-src", "--tunnel-dst"):
            if not tunnel:
                raise Lost("nft compares the addresses of tunnels only", "add --mode tunnel")
            side = "saddr" if option.name == "--tunnel-src" else "daddr"
            found = address_test(f"{left} {context.ip} {side}", option.value, v6=context.v6, negated=option.negated)
            tests += [each for each in found if isinstance(each, Test)]
    if not tests:
        raise Lost("nft does not know the protocol and the mode of IPsec", "ask for the reqid")
    return tests
