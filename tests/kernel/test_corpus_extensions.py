"""Every line of iptables' own extension tests, in the kernel, beside iptables itself: nfkeep does what iptables does.

Each line is tried in each of its chains and families in two namespaces, by iptables in one and by nfkeep in the other.
What a kernel lacks is what iptables cannot do there either.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
from corpus import IPTABLES, Command, Line, extension_file, extension_files, families, needs_corpus
from rounds import some

import nfkeep
from nfkeep import Family, InvalidRuleError, NfkeepError, Rule
from nfkeep.namespaces import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kernel, needs_corpus]


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_every_line_goes_as_with_iptables(family: Family) -> None:
    """A valid rule prints as expected, is in the kernel byte for byte as from iptables, and goes again by its text.

    An invalid one is refused, with a reason and without a trace.
    """
    tally: Counter[str] = Counter()
    faults: list[str] = []
    for path in extension_files():
        if family in families(path.name):
            with contextlib.closing(Namespace()) as ours, contextlib.closing(Namespace()) as theirs:
                faults += Trial(path, family, ours, theirs, tally).faults()
    print(family, *(f"{what}: {number}" for what, number in sorted(tally.items())), sep="\n  ")
    assert faults == []
    assert tally["valid, committed"] > 0.6 * sum(n for what, n in tally.items() if what.startswith("valid"))
    assert tally["invalid, refused"] > 0.6 * sum(n for what, n in tally.items() if what.startswith("invalid"))


@attrs.define
class Trial:
    """One file in one family, tried in two fresh namespaces."""

    path: Path
    family: Family
    ours: Namespace
    theirs: Namespace
    tally: Counter[str]
    committed: dict[str, list[tuple[str, str]]] = attrs.field(factory=dict)  # table: chains and texts

    def faults(self) -> Iterator[str]:
        """Try all lines in order, then compare what came of them; says what is wrong."""
        items = list(extension_file(self.path))
        tried = some([item for item in items if isinstance(item, Line)])
        for item in items:
            if isinstance(item, Command):
                item.run(self.ours, self.family)
                item.run(self.theirs, self.family)
            elif item in tried:
                for chain in item.chains:
                    yield from (f"{item} ({chain}): {fault}" for fault in self._line(item, chain))
        yield from (f"{self.path.name}: {fault}" for table in self.committed for fault in self._compare(table))

    def _line(self, line: Line, chain: str) -> Iterator[str]:
        iptables = [IPTABLES[self.family], "-t", line.table, "-A", chain, *shlex.split(line.rule)]
        asked = self.theirs.run(iptables, check=False)
        taken = asked.returncode == 0
        written_for_it = self.family is line.families[0]
        try:
            rule = Rule.parse(line.rule, self.family)
        except InvalidRuleError as error:
            refusal: str | None = error.reason
            if line.valid and written_for_it:
                yield f"does not parse: {refusal}"
        else:
            if line.valid and written_for_it and str(rule) != line.printed:
                yield f"prints as {rule}, not as {line.printed}"
            if line.valid and Rule.parse(str(rule), self.family) != rule:
                yield f"prints as {rule}, which is another rule"
            refusal = yield from self._commit(line.table, chain, rule)
        if refusal == "":
            yield "is refused without a reason"
        if taken and refusal is not None:
            yield f"is refused: {refusal}; iptables takes it"
        if not taken and refusal is None:
            yield f"is taken; iptables says {asked.stderr.strip()}"
        if written_for_it:
            outcome = ("committed" if taken else "not in this kernel") if line.valid else "refused"
            self.tally[f"{'valid' if line.valid else 'invalid'}, {'taken' if taken > line.valid else outcome}"] += 1
        else:
            self.tally[f"the other family's, {'committed' if taken else 'refused'}"] += 1

    def _commit(self, table: str, chain: str, rule: Rule) -> Iterator[str]:
        """Returns why the rule was refused, None if it was not."""
        with self.ours:
            before = nfkeep.read(table, self.family)
            try:
                with nfkeep.transaction(table, self.family, hold=False) as tx:
                    tx.append(chain, rule)
            except NfkeepError as error:
                if nfkeep.read(table, self.family) != before:
                    yield "is refused, yet the table has changed"
                return str(error)
            back = nfkeep.read(table, self.family).chains[chain].rules[-1]
        if (back.entry, str(back)) != (rule.entry, str(rule)):
            yield f"comes back as {back}: {differences(back.entry, rule.entry)}"
        self.committed.setdefault(table, []).append((chain, str(back)))
        return None

    def _compare(self, table: str) -> Iterator[str]:
        """What iptables saves and the kernel holds in either namespace, and whether our text deletes their rules."""
        saves = [
            self.ours.run(f"{IPTABLES[self.family]}-save -t {table}").stdout.splitlines(),
            self.theirs.run(f"{IPTABLES[self.family]}-save -t {table}").stdout.splitlines(),
        ]
        listed = [[line for line in saved if line.startswith("-A")] for saved in saves]
        yield from (f"{our} is {their} from iptables" for our, their in zip(*listed, strict=False) if our != their)
        with self.ours:
            ours = nfkeep.read(table, self.family)
        with self.theirs:
            theirs = nfkeep.read(table, self.family)
            with nfkeep.transaction(table, self.family, hold=False) as tx:
                for chain, text in self.committed[table]:
                    tx.delete(chain, text)
            left = sum(len(chain.rules) for chain in nfkeep.read(table, self.family).chains.values())
        for chain, held in theirs.chains.items():
            pairs = zip(ours.chains[chain].rules, held.rules, strict=False)
            yield from (f"{b} differs: {differences(a.entry, b.entry)}" for a, b in pairs if a.entry != b.entry)
            if len(ours.chains[chain].rules) != len(held.rules):
                yield f"{chain} has {len(ours.chains[chain].rules)} rules, from iptables {len(held.rules)}"
        if left + len(self.committed[table]) != sum(len(chain.rules) for chain in theirs.chains.values()):
            yield f"{left} rules of iptables are left when ours are deleted from them"


def differences(one: bytes, other: bytes) -> list[tuple[int, int, int]]:
    """Where two entries differ, and how."""
    return [(at, a, b) for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
