"""One verification: the comparison, then for each difference the rules that it hangs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.migrate.source import read_source, rules_of
from nfkeep.migrate.verify.quotas import unused_rules, unused_script
from nfkeep.migrate.verify.result import Mismatch, Verification
from nfkeep.migrate.verify.rulesets import Refused
from nfkeep.migrate.verify.shrink import fewest_rules, rule_lines, without
from nfkeep.migrate.verify.unseen import unseen

if TYPE_CHECKING:
    from nfkeep.migrate.verify.harness import Difference, Harness
    from nfkeep.migrate.verify.packet import Packet
    from nfkeep.migrate.verify.shrink import Translate
    from nfkeep.model import Family

_EXPLAINED = 12
"""How many differences are shrunk, each taking some dozens of comparisons."""


def run(
    harness: Harness, save_text: str, script: str, *, packets: int, seed: int, translate: Translate | None
) -> Verification:
    """Compare and explain; see nfkeep.migrate.verify.verify."""
    uncompared = list(unseen(read_source(save_text, harness.family)))
    save_text, script = unused_rules(save_text), unused_script(script)
    try:
        comparison = harness.compare(save_text, script, packets, seed=seed, counters=True)
    except Refused as refused:
        if refused.side != "iptables":
            raise
        if translate is None:
            return Verification(0, (), (*uncompared, f"everything: {refused}"))
        save_text, left_out = _acceptable(harness, save_text)
        uncompared += left_out
        script = translate(save_text, harness.family)
        comparison = harness.compare(save_text, script, packets, seed=seed, counters=True)
    explainer = _Explainer(harness, save_text, script, translate)
    mismatches = [explainer.explain(each) for each in comparison.differences]
    for counted in comparison.counted:
        if comparison.quick:
            uncompared.append(f"what was counted in the end, as limits add credit within a tick: {counted}")
            continue
        legacy, nft = (f"{each.packets} packets, {each.bytes} bytes" for each in (counted.legacy, counted.nft))
        mismatches.append(Mismatch("what was counted in the end", legacy, nft, (counted.rule.text,)))
    texts = save_text.splitlines()
    uncompared += [f"line {line}: {texts[line - 1]}: no packet came to this rule" for line in comparison.unmet]
    return Verification(comparison.sent, tuple(mismatches), tuple(uncompared))


def _acceptable(harness: Harness, text: str) -> tuple[str, list[str]]:
    """The text without the rules that this kernel refuses, each tried alone, and what was left out."""
    source = read_source(text, harness.family)
    names = {rule.line: table.name for table, _, rule in rules_of(source)}
    lines, numbers = text.splitlines(), rule_lines(text)
    refused: dict[int, str] = {}
    for number in numbers:
        try:
            harness.compare(without(text, set(numbers) - {number}), "", [])
        except Refused as error:
            refused[number] = error.reason
        except NfkeepError as error:
            refused[number] = str(error)
    told = [f"-t {names[number + 1]} {lines[number]}: {reason}" for number, reason in refused.items()]
    return without(text, set(refused)), told


class _Explainer:
    """Finds the rules behind a difference; what was found for one is tried on the next first."""

    def __init__(self, harness: Harness, text: str, script: str, translate: Translate | None) -> None:
        self._harness = harness
        self._text = text
        self._script = script
        self._translate = translate
        self._found: list[tuple[str, str]] = []
        self._left = _EXPLAINED

    def explain(self, difference: Difference) -> Mismatch:
        """The mismatch for a difference."""
        legacy, nft = (said.partition(":")[2].strip() for said in difference.told())
        told = str(difference.packet), legacy, nft
        if self._translate is None:
            if not self._left:
                return Mismatch(*told)
            self._left -= 1
            return Mismatch(*told, self._harness.counted(self._text, difference.packet))
        alone = [difference.packet]
        for text, script in self._found:
            if self._harness.compare(text, script, alone, first=True).differences:
                return Mismatch(*told, _rules(text))
        if self._left:
            self._left -= 1
            for packets, together in ((alone, False), (list(difference.before), True)):
                text_found = self._shrink(packets)
                if text_found is not None:
                    return Mismatch(*told, _rules(text_found), together)
        return Mismatch(*told, together=True)

    def _shrink(self, packets: list[Packet]) -> str | None:
        assert self._translate is not None
        text = fewest_rules(self._harness, self._text, self._translate, packets)
        if text is not None:
            self._found.append((text, self._translate(text, self._family)))
        return text

    @property
    def _family(self) -> Family:
        return self._harness.family


def _rules(text: str) -> tuple[str, ...]:
    lines = text.splitlines()
    return tuple(lines[number] for number in rule_lines(text))
