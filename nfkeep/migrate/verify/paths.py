"""How packets get to a rule: the hooks of its chain, and the conditions of the jumps on the way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nfkeep.migrate.verify.words import Word, Words, read_words
from nfkeep.model import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.source import Source, SourceRule, SourceTable


def paths(source: Source) -> Iterator[tuple[SourceRule, Words, tuple[tuple[Hook, tuple[Word, ...]], ...]]]:
    """Each rule with, for each hook that leads to it, all conditions on a shortest way there, its own last."""
    for table in source.tables:
        words = {rule.line: read_words(rule.words) for chain in table.chains for rule in chain.rules}
        ways = _ways(table, words)
        for chain in table.chains:
            for rule in chain.rules:
                own = words[rule.line]
                found = ways.get(chain.name, {})
                yield rule, own, tuple((hook, (*before, *own.conditions)) for hook, before in found.items())


def _ways(table: SourceTable, words: dict[int, Words]) -> dict[str, dict[Hook, tuple[Word, ...]]]:
    chains = {chain.name: chain for chain in table.chains}
    found: dict[str, dict[Hook, tuple[Word, ...]]] = {}
    for hook in Hook:
        if hook.name not in chains:
            continue
        found.setdefault(hook.name, {})[hook] = ()
        queue = deque([hook.name])
        while queue:
            name = queue.popleft()
            for rule in chains[name].rules:
                target = words[rule.line].target
                if target in chains and hook not in found.setdefault(target, {}):
                    found[target][hook] = (*found[name][hook], *words[rule.line].conditions)
                    queue.append(target)
    return found
