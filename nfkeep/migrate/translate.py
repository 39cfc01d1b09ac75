"""iptables-save text to an nft script: every rule as what it means there, or as a loss that is said aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nfkeep.errors import InvalidRuleError
from nfkeep.migrate import names
from nfkeep.migrate.context import Context, Objects
from nfkeep.migrate.fragments import uses_conntrack
from nfkeep.migrate.head import head_parts
from nfkeep.migrate.layout import Action, Chain, Layout
from nfkeep.migrate.loss import Loss, Lost
from nfkeep.migrate.parts import Rows, Statement
from nfkeep.migrate.placement import base_line, place_tables
from nfkeep.migrate.rule import VERDICTS, ParsedRule, match_translator, parse_rule, printed_rule, target_translator
from nfkeep.migrate.script import NftTable, script_text
from nfkeep.migrate.source import SourceChain, SourceRule, SourceTable, read_source
from nfkeep.model import Counters, Family

if TYPE_CHECKING:
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.placement import Place


@attrs.frozen(slots=True)
class Translation:
    """An nft script and what it does not say: `losses` in the order of the source's lines."""

    script: str
    losses: tuple[Loss, ...]

    @property
    def exact(self) -> bool:
        """Whether every rule means the same."""
        return not self.losses


def translate(save_text: str, family: Family = Family.IPV4) -> Translation:
    """The nft script for iptables-save (or ip6tables-save) text of either variant; loads with `nft -f`.

    Needs no kernel and no rights. A rule that nft cannot express is in `losses`, and in its place the script has a line
    `# LOST`. Raises InvalidRuleError, which names the line, for text that iptables-restore would refuse.
    """
    source = read_source(save_text, family)
    losses: list[Loss] = []
    whole = uses_conntrack(source)
    tables = [_table(place, family, losses, whole) for place in place_tables(source)]
    remarks = ["Translated from the rules of iptables; load it with: nft -f FILE"]
    losses.sort(key=lambda loss: loss.line)
    return Translation(script_text(tables, remarks), tuple(losses))


def _table(place: Place, family: Family, losses: list[Loss], defragmented: bool) -> NftTable:
    objects, chains = Objects(), _Chains()
    for table in place.tables:
        own = {chain.name: chains.named(place.chain_name(table, chain)) for chain in table.chains}
        user_chains = frozenset(chain.name for chain in table.chains if chain.policy is None)
        for chain in table.chains:
            target = own[chain.name]
            target.base = base_line(table, chain) if chain.policy is not None else ""
            if target.name != chain.name:
                target.origin = f"iptables: table {table.name}, chain {chain.name}"
            layout = Layout(target, chains.fresh)
            for rule in chain.rules:
                where = _Where(family, table, chain, user_chains, own, objects, losses, defragmented)
                losses += _rule(rule, where, layout)
            if chain.policy is not None:
                _end(chain, layout)
    name = "ip6" if family is Family.IPV6 else "ip"
    return NftTable(name, place.name, tuple(t.name for t in place.tables), objects.all(), chains.all())


@attrs.frozen(slots=True)
class _Where:
    family: Family
    table: SourceTable
    chain: SourceChain
    user_chains: frozenset[str]
    names: dict[str, Chain]
    objects: Objects
    losses: list[Loss]
    defragmented: bool

    def context(self, parsed: ParsedRule) -> Context:
        table, chain = self.table.name, self.chain
        return Context(
            self.family, table, chain.name, chain.policy, parsed, self.objects, defragmented=self.defragmented
        )

    def unsaid(self, general: list[Loss]) -> list[Loss]:
        """Those of what holds in general that no rule before has admitted."""
        said = {(loss.part, loss.reason) for loss in self.losses}
        return [loss for loss in dict.fromkeys(general) if (loss.part, loss.reason) not in said]


class _Chains:
    """The chains of one nft table, in the order of the source; helpers behind the one that needs them."""

    def __init__(self) -> None:
        self._all: dict[str, Chain] = {}

    def named(self, name: str) -> Chain:
        chain = self._all[name] = Chain(name)
        return chain

    def fresh(self, name: str) -> Chain:
        number = 1
        while f"{name}{number}" in self._all:
            number += 1
        return self.named(f"{name}{number}")

    def all(self) -> tuple[Chain, ...]:
        return tuple(self._all.values())


def _rule(rule: SourceRule, where: _Where, layout: Layout) -> list[Loss]:
    try:
        parts, action, losses = _translated(rule, where)
    except Lost as lost:
        loss = Loss(rule.line, rule.text, lost.part or "rule", lost.reason, lost.advice)
        layout.chain.remark(f"LOST line {rule.line}: {rule.text}: {lost.reason}")
        return [loss]
    for loss in losses:
        layout.chain.remark(f"APPROXIMATED line {rule.line}: {loss.part}: {loss.reason}")
    layout.add(parts, action, rule.line)
    return losses


def _translated(rule: SourceRule, where: _Where) -> tuple[tuple[Part, ...], Action, list[Loss]]:
    parsed = parse_rule(rule, where.family, where.user_chains)
    try:
        return _parts_and_action(parsed, where)
    except Lost:  # a name where iptables-save prints a number?
        try:
            printed = printed_rule(rule, where.family, where.user_chains)
        except (Lost, InvalidRuleError):
            printed = None
        if printed is None or printed == parsed:
            raise
        return _parts_and_action(printed, where)


def _parts_and_action(parsed: ParsedRule, where: _Where) -> tuple[tuple[Part, ...], Action, list[Loss]]:
    context = where.context(parsed)
    parts = (*head_parts(context), *_match_parts(parsed, context))
    action = _action(parsed, context, where)
    return parts, action, [*context.losses, *where.unsaid(context.general)]


def _match_parts(parsed: ParsedRule, context: Context) -> list[Part]:
    parts: list[Part] = []
    for match in parsed.matches:
        translator = match_translator(match.name)
        assert translator is not None, "parse_rule knows it"
        try:
            parts += translator.translate(match, context)
        except Lost as lost:
            raise Lost(lost.reason, lost.advice, f"-m {match}") from None
        except (ValueError, KeyError) as error:
            raise Lost(f"its options are not understood ({error})", "", f"-m {match}") from None
    return parts


def _action(parsed: ParsedRule, context: Context, where: _Where) -> Action:
    counted = Statement(_counter(parsed.source.counters))
    remark = [Statement(names.comment(context.comment))] if context.comment else []
    target = parsed.target
    if target is None:
        return Action((counted, *remark))
    if target.name in where.user_chains:
        verb = "goto" if parsed.goto else "jump"
        return Action((counted, Statement(f"{verb} {where.names[target.name].name}"), *remark), leaves=parsed.goto)
    if target.name in VERDICTS:
        if target.name == "RETURN" and where.chain.policy is None:
            return Action((counted, Statement("return"), *remark), leaves=True)
        verdict = where.chain.policy if target.name == "RETURN" else target.name
        assert verdict is not None
        return Action((counted, Statement(verdict.lower()), *remark))
    translator = target_translator(target.name)
    assert translator is not None, "parse_rule knows it"
    try:
        done = translator.translate(target, context)
    except Lost as lost:
        raise Lost(lost.reason, lost.advice, f"-j {target}") from None
    except (ValueError, KeyError) as error:
        raise Lost(f"its options are not understood ({error})", "", f"-j {target}") from None
    if isinstance(done, Rows):
        return Action((counted, *remark), rows=done.rows)
    return Action((counted, *done, *remark))


def _counter(counted: Counters | None) -> str:
    return "counter" if counted is None else f"counter packets {counted.packets} bytes {counted.bytes}"


def _end(chain: SourceChain, layout: Layout) -> None:
    """What the policy has counted; and a policy that nft has no word for."""
    statements = [Statement(_counter(chain.counters))]
    if chain.policy == "QUEUE":
        statements.append(Statement("queue"))
    layout.chain.add((*statements, Statement('comment "policy"')), chain.line)
