"""`-j TOS`: the whole field of type of service, or bits of it (tos_tg() in xt_DSCP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.parts import Rows, Statement, Test

if TYPE_CHECKING:
    from nfkeep.migrate.context import Context
    from nfkeep.migrate.rule import Extension

OPTIONS = {"--set-tos": 1}
_DSCP, _ECN = range(64), range(4)


def translate(target: Extension, context: Context) -> tuple[Statement, ...] | Rows:
    """`(field & ~mask) ^ value`.

    IPv6 has no checksum: the bits are changed where they are. IPv4's is corrected only where nft knows the field by
    name, and there it writes constants: each DSCP that can come out is a rule.
    """
    (option,) = target.options
    value, mask = (int(each, 0) for each in option.value.split("/"))
    if not value and not mask:
        return ()
    if context.v6:
        kept, turned = 0xFFFF & ~(mask << 4), value << 4
        return (Statement(f"@nh,0,16 set @nh,0,16 & {kept:#06x} ^ {turned:#06x}"),)
    dscp = _results(_DSCP, value >> 2, mask >> 2)
    ecn = _results(_ECN, value & 3, mask & 3)
    if len(dscp) == 1 or _same(dscp):
        if len(ecn) == 1 or _same(ecn):
            return tuple(Statement(f"ip {name} set {each}") for name, each in (*_one("dscp", dscp), *_one("ecn", ecn)))
        return _rows("ecn", ecn, _one("dscp", dscp))
    if len(ecn) == 1 or _same(ecn):
        return _rows("dscp", dscp, _one("ecn", ecn))
    return Rows(
        tuple(
            (Test("ip ecn", tuple(map(str, numbers))), _rows("dscp", dscp, [("ecn", new)]))
            for new, numbers in ecn.items()
        )
    )


def _results(numbers: range, value: int, mask: int) -> dict[int, list[int]]:
    """What can come out, and of which numbers."""
    results: dict[int, list[int]] = {}
    for number in numbers:
        results.setdefault(number & ~mask ^ value, []).append(number)
    return results


def _same(results: dict[int, list[int]]) -> bool:
    return all(numbers == [new] for new, numbers in results.items())


def _one(name: str, results: dict[int, list[int]]) -> list[tuple[str, int]]:
    """The field and its only result; nothing if it stays as it is."""
    return [] if _same(results) else [(name, next(iter(results)))]


def _rows(name: str, results: dict[int, list[int]], also: list[tuple[str, int]]) -> Rows:
    """One row for each result; `also` are fields that become the same in all."""
    others = [Statement(f"ip {field} set {new}") for field, new in also]
    return Rows(
        tuple(
            (
                Test(f"ip {name}", tuple(map(str, numbers))),
                Statement(f"ip {name} set {new}"),
                *others,
                Statement("return"),
            )
            for new, numbers in results.items()
        )
    )
