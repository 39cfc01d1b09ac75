"""`-m conntrack`: what is known of the packet's connection (conntrack_mt() in xt_conntrack.c).

Without an entry only the state counts: what else the rule asks for is not looked at then, and without a state it never
matches.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from nfkeep.migrate.entries import HAS_ENTRY, NO_ENTRY, TRACKED_NEVER, admit_template
from nfkeep.migrate.flow_ports import flow_protocol, port_ways
from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import NEVER, AnyOf, Test
from nfkeep.migrate.states import listed, state_parts, state_tests, states_of
from nfkeep.migrate.values import address_test, number_range

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part, Simple
    from nfkeep.migrate.rule import Extension, Option

OPTIONS = {
    "--ctstate": 1,
    "--ctproto": 1,
    "--ctorigsrc": 1,
    "--ctorigdst": 1,
    "--ctreplsrc": 1,
    "--ctrepldst": 1,
    "--ctorigsrcport": 1,
    "--ctorigdstport": 1,
    "--ctreplsrcport": 1,
    "--ctrepldstport": 1,
    "--ctstatus": 1,
    "--ctexpire": 1,
    "--ctdir": 1,
}
_ADDRESSES = {
    "--ctorigsrc": ("original", "saddr"),
    "--ctorigdst": ("original", "daddr"),
    "--ctreplsrc": ("reply", "saddr"),
    "--ctrepldst": ("reply", "daddr"),
}
_STATUS = {"EXPECTED": "expected", "SEEN_REPLY": "seen-reply", "ASSURED": "assured", "CONFIRMED": "confirmed"}
_DIRECTIONS = {"ORIGINAL": ("original", "reply"), "REPLY": ("reply", "original")}
_MOST_SECONDS = (1 << 32) - 1
_LONGEST = 4_294_966  # seconds; what nft can compare: an unsigned int of milliseconds

_Ways = tuple[tuple["Simple", ...], ...]


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """One test for each option, but for packets without an entry."""
    if len(match.options) == 1 and (only := match.options[0]).name == "--ctstate":  # most rules ask for no more
        return state_parts(only.value, negated=only.negated)
    ports = tuple(option for option in match.options if option.name.endswith("port"))
    protocol = match.option("--ctproto")
    elsewhere = ["--ctstate", *(["--ctproto"] if ports and protocol and not protocol.negated else [])]
    plain = [option for option in match.options if option not in ports and option.name not in elsewhere]
    conditions = [_ways(option, context) for option in plain]
    if ports:
        conditions.append(port_ways(ports, protocol, context))
    if conditions:
        admit_template(match, context)
    state = match.option("--ctstate")
    if state is None:
        if not conditions:
            raise Lost("it has no option")
        return tuple(map(AnyOf, conditions))
    without = tuple(each for each in NO_ENTRY if (each in states_of(state.value)) != state.negated)
    if not without or not conditions:
        return (*state_parts(state.value, negated=state.negated), *map(AnyOf, conditions))
    together = itertools.product(_with_entry(state), *conditions)
    ways = [(Test("ct state", without),), *(tuple(itertools.chain(*each)) for each in together)]
    return (AnyOf(tuple(ways)),)


def _with_entry(state: Option) -> _Ways:
    """The state of a packet that has an entry, so that no test of it breaks off."""
    tests = []
    for test in state_tests(state.value):
        if values := tuple(value for value in test.values if value not in NO_ENTRY):
            tests.append(Test(test.left, values, test.negated != state.negated))
    return (tuple(tests),) if state.negated else tuple((test,) for test in tests)


def _ways(option: Option, context: Context) -> _Ways:
    if option.name in _ADDRESSES:
        direction, side = _ADDRESSES[option.name]
        left = f"ct {direction} {context.ip} {side}"
        return _closed(address_test(left, option.value, v6=context.v6, negated=option.negated))
    if option.name == "--ctproto":
        return ((Test("ct protocol", (flow_protocol(option.value),), option.negated),),)
    if option.name == "--ctdir":
        return ((Test("ct direction", (_DIRECTIONS[option.value.upper()][option.negated],)),),)
    if option.name == "--ctexpire":
        return _expires(option)
    names = [_STATUS[name] for name in listed(option.value, ("NONE", *_STATUS)) if name != "NONE"]
    if not names:  # no bit of none: never; its opposite: always
        return ((HAS_ENTRY,),) if option.negated else (TRACKED_NEVER,)
    bits = "|".join(names)
    return ((Test(f"ct status & ({bits})" if len(names) > 1 else f"ct status & {bits}", ("0",), not option.negated),),)


def _expires(option: Option) -> _Ways:
    """Whole seconds that the entry has left; nft counts milliseconds."""
    low, high = number_range(option.value, _MOST_SECONDS)
    if low > min(high, _LONGEST):
        return ((HAS_ENTRY,),) if option.negated else (TRACKED_NEVER,)
    if high > _LONGEST:
        operator = "<" if option.negated else ">="
        return _closed(()) if not low and not option.negated else ((Test(f"ct expiration {operator}", (f"{low}s",)),),)
    return ((Test("ct expiration", (f"{low}s-{high}s999ms",), option.negated),),)


def _closed(parts: tuple[Part, ...]) -> _Ways:
    """The same as ways; what always holds still needs an entry."""
    if parts == (NEVER,):
        return (TRACKED_NEVER,)
    return (parts or (HAS_ENTRY,),)  # type: ignore[return-value]
