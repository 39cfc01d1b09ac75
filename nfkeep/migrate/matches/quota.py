"""`-m quota`: so many bytes, then never again (quota_mt() in xt_quota.c); a named quota of nft (nft_quota.c).

Both never match again after the first packet that is too much. What is used up is the rule's byte counter, if nothing
behind the quota decides too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--quota": 1}
_MOST = (1 << 63) - 1  # nft_quota_do_init()
_LONGEST_PACKET = 65535


def translate(match: Extension, context: Context) -> tuple[Part, ...]:
    """A quota of the rule's own."""
    option = match.options[0]
    wanted = int(option.value)
    if wanted > _MOST:
        context.approximate(match, f"nft counts to {_MOST} bytes only")
    total = min(wanted, _MOST)
    used = _used(match, total, context, negated=option.negated)
    name = context.objects.fresh(f"quota-{context.chain}")
    text = f"{'over ' if option.negated else ''}{total} bytes"
    name = context.objects.declare("quota", name, (f"{text} used {used} bytes" if used else text,))
    return (Statement(f'quota name "{name}"'),)


def _used(match: Extension, total: int, context: Context, *, negated: bool) -> int:
    """What is used up of it, in bytes."""
    counted = context.rule.source.counters
    if counted is None or not counted.bytes:
        return 0
    if negated:
        return total  # only packets behind the quota's end are counted
    if counted.bytes > total:
        context.approximate(
            match, "the rule counted more bytes than its quota has: the quota was begun anew, and begins full here"
        )
        return 0
    matches = context.rule.matches
    if any(each.name != "comment" for each in matches[matches.index(match) + 1 :]):
        context.approximate(
            match,
            "what other matches refused used the quota up too, and no counter says how much",
            "put -m quota last in the rule",
        )
    elif total - counted.bytes < _LONGEST_PACKET:
        rest = total - counted.bytes
        context.approximate(match, f"it may be used up already, and {rest} bytes are left here at most")
    return counted.bytes
