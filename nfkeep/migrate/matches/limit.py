"""`-m limit`: so many packets in a time, after a burst (xt_limit.c); a named limit of nft (nft_limit.c).

Both are token buckets that begin full. The kernel's limit_mt_check() reckons a packet's cost in credits, of which a
second has 32000 where HZ is 250 or 1000: what it rounds down there makes limits faster than they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.loss import Lost
from nfkeep.migrate.parts import Statement
from nfkeep.migrate.rates import coarse, nft_rate, rate_and_unit, unit_seconds

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--limit": 1, "--limit-burst": 1}

_SCALE = 10000  # XT_LIMIT_SCALE
_CREDITS = 32000  # HZ * CREDITS_PER_JIFFY of xt_limit.c, with HZ of 250 or 1000
_NUMBERS = 1 << 32
_DEFAULT_RATE, _DEFAULT_BURST = "3/hour", "5"


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """A limit of the rule's own."""
    rate, burst = match.option("--limit"), match.option("--limit-burst")
    text = rate.value if rate else _DEFAULT_RATE
    number, unit = rate_and_unit(text)
    average = _SCALE * unit_seconds(unit) // number
    packets = int(burst.value if burst else _DEFAULT_BURST)
    if not packets or not average or _credits(average * packets) < _credits(average):
        raise Lost("the kernel refuses this rate with this burst")
    cost = _credits(average)
    if cost < 1000:  # there what is rounded down depends on HZ
        written, real = number / unit_seconds(unit), _CREDITS / cost
        if abs(real / written - 1) > 0.001:
            context.approximate(
                match, f"the kernel makes {text} {real:.6g}/second where HZ is 250 or 1000, and so does nft here"
            )
    if reason := coarse(packets * cost / _CREDITS, packets):
        context.approximate(match, reason)
    burst_text = f"burst {_credits(average * packets) // cost} packets"
    name = context.objects.fresh(f"limit-{context.chain}")
    name = context.objects.declare("limit", name, (f"rate {nft_rate(text, cost / _CREDITS)} {burst_text}",))
    return (Statement(f'limit name "{name}"'),)


def _credits(user: int) -> int:
    """user2credits() in xt_limit.c, with its 32 bits."""
    user %= _NUMBERS
    if user > (_NUMBERS - 1) // _CREDITS:
        return user // _SCALE * _CREDITS % _NUMBERS
    return user * _CREDITS % _NUMBERS // _SCALE
