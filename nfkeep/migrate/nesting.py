"""How deep the chains of a table nest. nft refuses more than it has room for, and loops, as iptables does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate.parts import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfkeep.migrate.layout import Chain

DEEPEST = 15
"""Chains below a base chain; NFT_JUMP_STACK_SIZE is 16, with the base chain (nft_chain_validate(), nf_tables_api.c).

A goto counts like a jump there.
"""

_GOING = ("jump ", "goto ")


def too_deep_lines(chains: Sequence[Chain]) -> set[int]:
    """The source's lines whose rules lead deeper than nft can go; the chains below those are not looked at.

    Raises InvalidRuleError for a loop that a packet could get into. One in chains that nothing reaches is allowed, by
    iptables and by nft.
    """
    ways = {chain.name: _ways(chain) for chain in chains}
    levels = {chain.name: 0 for chain in chains if chain.base}
    deep: set[int] = set()
    for name in _outer_first(ways, list(levels)):
        for source, target in ways[name]:
            if name not in levels:
                continue
            if levels[name] == DEEPEST:
                deep.add(source)
            else:
                levels[target] = max(levels.get(target, 0), levels[name] + 1)
    return deep


def _ways(chain: Chain) -> list[tuple[int, str]]:
    """Where rules of the chain lead, each with the line that it stands for."""
    found = []
    for line in chain.lines:
        for part in line.parts:
            if isinstance(part, Statement) and part.text[:5] in _GOING and " " not in (to := part.text[5:]):
                found.append((line.source, to))
    return found


def _outer_first(ways: dict[str, list[tuple[int, str]]], roots: list[str]) -> list[str]:
    """The chains that can be reached, each behind all that lead to it."""
    done: list[str] = []
    known, within = set(roots), set()
    for root in roots:
        within.add(root)
        open_chains = [(root, iter(ways[root]))]
        while open_chains:
            name, rest = open_chains[-1]
            for source, target in rest:
                if target in within:
                    raise InvalidRuleError(f"line {source}: the jump to {target} makes a loop")
                if target not in known:
                    known.add(target)
                    within.add(target)
                    open_chains.append((target, iter(ways[target])))
                    break
            else:
                within.remove(name)
                done.append(name)
                open_chains.pop()
    return done[::-1]
