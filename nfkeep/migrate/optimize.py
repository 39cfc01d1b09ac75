"""Neighbouring rules that differ in one value only, made one rule with a set: a lookup instead of a walk.

Ten thousand times `-s ADDRESS -j DROP` is one rule with ten thousand addresses then. Every packet fares the same; what
the rules had counted is added up, and comments go unless they are alike.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, TypeAlias

from nfkeep.migrate.layout import Line
from nfkeep.migrate.parts import Statement, Test

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nfkeep.migrate.parts import Simple

_Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_COUNTER = re.compile(r"counter(?: packets (\d+) bytes (\d+))?")
_ENDING = re.compile(r"accept|drop|return|goto \S+|reject(?: with .+)?")
"""Verdicts behind which no later rule of the chain sees the packet: which of two neighbours took it is all the same."""

_ADDRESSES = frozenset({"ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr"})
_PORTS = re.compile(r"(?:tcp|udp|sctp|dccp|udplite) [sd]port")
_INTERFACES = frozenset({"iifname", "oifname"})


def optimized(lines: Sequence[Line]) -> list[Line]:
    """The same rules in fewer lines."""
    found: list[Line] = []
    run: list[Line] = []
    varying: int | None = None
    for line in lines:
        at = _difference(run[-1], line) if run else None
        if at is not None and varying in (None, at):
            run.append(line)
            varying = at
        else:
            found += _one(run, varying)
            run, varying = [line], None
    return [*found, *_one(run, varying)]


def _difference(one: Line, other: Line) -> int | None:
    """The only place where two rules that may be joined differ; None if they may not."""
    if one.remark or other.remark or not (_ends(one) and _ends(other)):
        return None
    mine, others = _conditions(one), _conditions(other)
    if len(mine) != len(others) or _verdict(one) != _verdict(other):
        return None
    places = [n for n, (left, right) in enumerate(zip(mine, others, strict=True)) if left != right]
    if len(places) != 1:
        return None
    left, right = mine[places[0]], others[places[0]]
    joinable = left.left == right.left and _can_be_a_set(left) and _can_be_a_set(right)
    return places[0] if joinable else None


def _ends(line: Line) -> bool:
    """Whether it is conditions, a counter and a verdict that ends the packet's way through the chain."""
    acts = [part.text for part in line.parts if isinstance(part, Statement) and not part.text.startswith("comment ")]
    tests = len(_conditions(line))
    plain = all(isinstance(part, Test) for part in line.parts[:tests])
    return plain and len(acts) == 2 and bool(_COUNTER.fullmatch(acts[0]) and _ENDING.fullmatch(acts[1]))


def _conditions(line: Line) -> list[Test]:
    return [part for part in line.parts if isinstance(part, Test)]


def _verdict(line: Line) -> str:
    return next(part.text for part in line.parts if isinstance(part, Statement) and _ENDING.fullmatch(part.text))


def _can_be_a_set(test: Test) -> bool:
    if test.negated:
        return False
    if test.left in _INTERFACES:
        return not any(value.endswith('*"') for value in test.values)
    return test.left in _ADDRESSES or _PORTS.fullmatch(test.left) is not None


def _one(run: Sequence[Line], varying: int | None) -> list[Line]:
    if varying is None:
        return list(run)
    tests: list[Simple] = list(_conditions(run[0]))
    left = _conditions(run[0])[varying].left
    tests[varying] = Test(left, _joined(left, [value for line in run for value in _conditions(line)[varying].values]))
    counted = [_COUNTER.fullmatch(part.text) for line in run for part in line.parts if isinstance(part, Statement)]
    packets, octets = (sum(int(each[n] or 0) for each in counted if each) for n in (1, 2))
    counter = f"counter packets {packets} bytes {octets}" if packets or octets else "counter"
    remarks = {line.parts[-1] for line in run}
    same = remarks.pop() if len(remarks) == 1 else None
    remark = [same] if isinstance(same, Statement) and same.text.startswith("comment ") else []
    return [Line((*tests, Statement(counter), Statement(_verdict(run[0])), *remark), source=run[0].source)]


def _joined(left: str, values: list[str]) -> tuple[str, ...]:
    """The values as elements of one set of nft, where none may lie within another."""
    if left in _INTERFACES:
        return tuple(dict.fromkeys(values))
    if left in _ADDRESSES:
        networks: Iterable[_Network] = ipaddress.collapse_addresses(map(ipaddress.ip_network, values))  # type: ignore[type-var]
        return tuple(f"{each}".removesuffix(f"/{each.max_prefixlen}") for each in networks)
    ranges = sorted((int(low), int(high or low)) for low, _, high in (value.partition("-") for value in values))
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(str(low) if low == high else f"{low}-{high}" for low, high in found)
