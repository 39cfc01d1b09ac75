"""The hop limit that a packet still has, set, raised or lowered, as TTL and HL do it (xt_HL.c)."""

from __future__ import annotations

from nfkeep.migrate.parts import Rows, Statement, Test

_MOST = 255
_BRANCHES = 16


def hops_set(field: str, value: int) -> tuple[Statement, ...]:
    """Always this many."""
    return (Statement(f"{field} set {value}"),)


def hops_mapped(field: str, by: int) -> tuple[Statement, ...]:
    """So many more or less, none below 0 or above 255, by a map: for IPv6, where nft can write what a map says."""
    elements = [f"{_interval(low, high)} : {new}" for low, high, new in _runs(by)]
    return (Statement(f"{field} set {field} map {{ {', '.join(elements)} }}"),)


def hops_in_rows(field: str, by: int) -> Rows:
    """The same in rules of constants, in branches of a few numbers: for IPv4, where nft 1.0.6 can write only those."""
    runs = list(_runs(by))
    branches = [runs[n : n + _BRANCHES] for n in range(0, len(runs), _BRANCHES)]
    return Rows(tuple((Test(field, (_interval(each[0][0], each[-1][1]),)), _branch(field, each)) for each in branches))


def _branch(field: str, runs: list[tuple[int, int, int]]) -> Rows:
    return Rows(
        tuple(
            (Test(field, (_interval(low, high),)), Statement(f"{field} set {new}"), Statement("return"))
            for low, high, new in runs
        )
    )


def _runs(by: int) -> list[tuple[int, int, int]]:
    """First and last number that become the same one, and that one."""
    runs: list[tuple[int, int, int]] = []
    for number in range(_MOST + 1):
        new = min(max(number + by, 0), _MOST)
        if runs and runs[-1][2] == new:
            runs[-1] = (runs[-1][0], number, new)
        else:
            runs.append((number, number, new))
    return runs


def _interval(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
