"""Which builtin chains of a table packets come through to each of its chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfkeep.migrate.source import SourceRule, SourceTable

_JUMPS = frozenset({"-j", "-g", "--jump", "--goto"})


def reaching(table: SourceTable) -> dict[str, frozenset[str]]:
    """The builtin chains from which jumps lead to each chain, itself if it is one; none if nobody uses it."""
    targets = {chain.name: _jumped_to(chain.rules) for chain in table.chains}
    found: dict[str, set[str]] = {chain.name: set() for chain in table.chains}
    for builtin in (chain.name for chain in table.chains if chain.policy is not None):
        waiting = [builtin]
        while waiting:
            name = waiting.pop()
            if name in found and builtin not in found[name]:
                found[name].add(builtin)
                waiting += targets[name]
    return {name: frozenset(builtins) for name, builtins in found.items()}


def _jumped_to(rules: tuple[SourceRule, ...]) -> set[str]:
    words = (rule.words for rule in rules)
    return {each[n + 1] for each in words for n, word in enumerate(each[:-1]) if word in _JUMPS}
