"""iptables-save text to an nft script: every rule as what it means there, or as a loss that is said aloud."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs

from nfkeep.keep.report import Fidelity
from nfkeep.migrate import names
from nfkeep.migrate.context import Context, Objects
from nfkeep.migrate.counterparts import counterparts
from nfkeep.migrate.fragments import have_tracked, uses_conntrack
from nfkeep.migrate.head import head_parts
from nfkeep.migrate.ipsets import read_ipsets
from nfkeep.migrate.layout import Action, Chain, Layout
from nfkeep.migrate.loss import Loss, Lost
from nfkeep.migrate.nesting import DEEPEST, too_deep_lines
from nfkeep.migrate.optimize import optimized
from nfkeep.migrate.parts import Rows, Statement
from nfkeep.migrate.placement import base_line, place_tables, tracked_line
from nfkeep.migrate.reach import reaching
from nfkeep.migrate.rule import VERDICTS, Chains, ParsedRule, match_translator, readings, target_translator
from nfkeep.migrate.script import POLICY, NftTable, script_text
from nfkeep.migrate.sharing import with_shared_sets
from nfkeep.migrate.source import Source, SourceChain, SourceRule, SourceTable, read_source
from nfkeep.migrate.survey import Survey
from nfkeep.model import Counters, Family, Hook

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nfkeep.migrate.counterparts import Counterpart
    from nfkeep.migrate.ipsets import IpSet
    from nfkeep.migrate.parts import Part
    from nfkeep.migrate.placement import Place


_REMARKS = ("Translated from the rules of iptables; load it with: nft -f FILE",)
_LEFT_OUT = ("iptables-nft-save could not print it, so its rules are not in the text", "nft list ruleset shows them")
_ASSUMED = ("the text does not say its policy; ACCEPT is assumed", "say it, as in :INPUT DROP [0:0]")
_VERDICTS = {name: Statement(name.lower()) for name in VERDICTS}
_TOO_DEEP = Lost(
    f"nft nests at most {DEEPEST} chains below a base chain, and this would be one more", "have fewer chains in a row"
)


@attrs.frozen(slots=True)
class Translation:
    """An nft script and what it does not say: `losses` in the order of the source's lines.

    `tables` is what the script says, as values.
    """

    tables: tuple[NftTable, ...] = attrs.field(repr=False)
    losses: tuple[Loss, ...]
    _general: Mapping[int, list[Loss]] = attrs.field(factory=dict, eq=False, repr=False)

    @property
    def script(self) -> str:
        """The script; it is written anew each time."""
        return script_text(self.tables, _REMARKS)

    @property
    def exact(self) -> bool:
        """Whether every rule means the same."""
        return not self.losses

    def counterparts(self) -> Mapping[int, Counterpart]:
        """What each line of the source became, for those who want to see both beside each other.

        Under 0 is what no line asked for. Takes a tenth of the time of the translation, so ask once.
        """
        return counterparts(self.tables, self.losses, self._general)


def translate(
    save_text: str,
    family: Family = Family.IPV4,
    *,
    ipsets: str = "",
    optimize: bool = False,
) -> Translation:
    """The nft script for iptables-save (or ip6tables-save) text of either variant; loads with `nft -f`.

    `ipsets` is what `ipset save` prints; only sets that rules use become sets of nft.
    With `optimize` long runs of like rules become lookups in sets (see nfkeep.migrate.optimize).

    Needs no kernel and no rights. A rule that nft cannot express is in `losses`, and in its place the script has a line
    `# LOST`. Raises InvalidRuleError, which names the line, for text that iptables-restore would refuse.
    """
    return translate_source(read_source(save_text, family), read_ipsets(ipsets), optimize=optimize)


def translate_source(source: Source, ipsets: Mapping[str, IpSet], *, optimize: bool = False) -> Translation:
    """The same for what was read before, by `read_source` and `read_ipsets`."""
    survey = Survey(source, ipsets)
    whole = _Whole(source, survey, uses_conntrack(source), optimize)
    members = {name: each.members for name, each in survey.ipsets.items()}
    losses = [Loss(number, "", f"table {name}", *_LEFT_OUT) for number, name in source.left_out]
    tables = [_table(place, whole, losses) for place in place_tables(source, members)]
    if whole.defragmented:
        have_tracked([chain for table in tables for chain in table.chains])
    losses.sort(key=lambda loss: loss.line)
    return Translation(tuple(tables), tuple(losses), whole.general)


@attrs.frozen(slots=True)
class _Whole:
    """What concerns all tables; `admitted`: part and reason of each loss that need not be said again.

    `general`: all the same, by the line of each rule that it holds for.
    """

    source: Source
    survey: Survey
    defragmented: bool
    optimize: bool
    admitted: set[tuple[str, str]] = attrs.Factory(set)
    general: dict[int, list[Loss]] = attrs.Factory(dict)


@attrs.frozen(slots=True)
class _Target:
    """The nft table that is being written; `without`: the lines of rules that cannot be in it, and why."""

    place: Place
    whole: _Whole
    without: Mapping[int, Lost]
    objects: Objects = attrs.Factory(Objects)
    chains: _NftChains = attrs.Factory(lambda: _NftChains())
    admitted: set[tuple[str, str]] = attrs.Factory(set)
    general: dict[int, list[Loss]] = attrs.Factory(dict)

    def new(self, losses: list[Loss]) -> list[Loss]:
        """Those of one rule that were not admitted before."""
        if not losses:
            return []
        self.general[losses[0].line] = losses
        keys = {(loss.part, loss.reason): loss for loss in losses}
        found = [loss for key, loss in keys.items() if key not in self.whole.admitted | self.admitted]
        self.admitted.update(keys)
        return found


def _table(place: Place, whole: _Whole, losses: list[Loss]) -> NftTable:
    """The table with all rules but those that would nest deeper than nft can."""
    too_deep: dict[int, Lost] = {}
    while True:
        target = _Target(place, whole, too_deep)
        found = [loss for table in place.tables for loss in _fill(target, table)]
        written = tuple(target.chains.all())
        deeper = too_deep_lines(written)
        if not deeper:
            break
        too_deep |= dict.fromkeys(deeper, _TOO_DEEP)
    losses += found
    whole.admitted.update(target.admitted)
    whole.general.update(target.general)
    name = "ip6" if whole.source.family is Family.IPV6 else "ip"
    origins = tuple(table.name for table in place.tables)
    if whole.optimize:
        written = tuple(optimized(chain, target.objects) for chain in written)
    written = tuple(with_shared_sets(written, target.objects))
    return NftTable(name, place.name, origins, target.objects.all(), written)


def _fill(target: _Target, table: SourceTable) -> list[Loss]:
    losses: list[Loss] = []
    own = {chain.name: target.chains.named(target.place.chain_name(table, chain)) for chain in table.chains}
    everywhere = {chain.name for each in target.whole.source.tables for chain in each.chains} | set(Hook.__members__)
    user_chains = frozenset(c.name for c in table.chains if c.policy is None and target_translator(c.name) is None)
    reachable, reached = Chains(user_chains, frozenset(everywhere - user_chains)), reaching(table)
    for chain in table.chains:
        nft_chain = own[chain.name]
        nft_chain.base = base_line(table, chain) if chain.policy is not None else ""
        if nft_chain.name != chain.name:
            nft_chain.origin = f"iptables: table {table.name}, chain {chain.name}"
        if chain.assumed:
            losses.append(Loss(chain.line, "", f"chain {chain.name}", *_ASSUMED, Fidelity.APPROXIMATED))
        layout = Layout(nft_chain, target.chains.fresh)
        where = _Where(target, table, chain, reachable, own, reached[chain.name], target.whole.source.family)
        for rule in chain.rules:
            losses += _rule(rule, where, layout)
        if chain.policy is not None:
            _end(chain, layout)
    return losses


@attrs.frozen(slots=True)
class _Where:
    """Where rules are: the chain, and whence packets come to it."""

    target: _Target
    table: SourceTable
    chain: SourceChain
    chains: Chains
    names: dict[str, Chain]
    hooks: frozenset[str]
    family: Family

    def context(self, parsed: ParsedRule) -> Context:
        """What the translators of a rule here get to know."""
        return Context(
            self.family,
            self.table.name,
            self.chain.name,
            self.chain.policy,
            parsed,
            self.target.objects,
            self.target.whole.survey,
            hooks=self.hooks,
            siblings=self.chain.rules,
            defragmented=self.target.whole.defragmented,
        )


class _NftChains:
    """The chains of one nft table, by name."""

    def __init__(self) -> None:
        self._all: dict[str, Chain] = {}
        self._numbers: dict[str, Iterator[int]] = {}
        self._tracked: dict[str, Chain] = {}

    def named(self, name: str) -> Chain:
        chain = self._all[name] = Chain(name)
        return chain

    def fresh(self, name: str) -> Chain:
        numbers = self._numbers.setdefault(name, itertools.count(1))
        return self.named(next(each for n in numbers if (each := f"{name}{n}") not in self._all))

    def tracked(self, chain: Chain, base: str) -> Chain:
        """The chain behind conntrack that goes with a base chain before it; `base`: its line of type and hook."""
        if chain.name not in self._tracked:
            self._tracked[chain.name] = self.fresh(f"{chain.name}-tracked")
            self._tracked[chain.name].base = base
        return self._tracked[chain.name]

    def all(self) -> Iterator[Chain]:
        """All of them in the order of the source, helpers behind the one that needs them."""
        helpers = {id(helper) for chain in self._all.values() for helper in chain.helpers}
        for chain in self._all.values():
            if id(chain) not in helpers:
                yield from _with_helpers(chain)


def _with_helpers(chain: Chain) -> Iterator[Chain]:
    yield chain
    for helper in chain.helpers:
        yield from _with_helpers(helper)


def _rule(rule: SourceRule, where: _Where, layout: Layout) -> list[Loss]:
    lost = where.target.without.get(rule.line)
    if lost is None:
        objects, known = where.target.objects, len(where.target.objects)
        try:
            for parsed in readings(rule, where.family, where.chains):
                try:
                    parts, action, context = _translated(parsed, where)
                except Lost as error:
                    lost = error
                    objects.keep(known)
                    continue
                losses = context.losses + where.target.new(context.general)
                for loss in losses:
                    layout.chain.remark(f"APPROXIMATED line {rule.line}: {loss.part}: {loss.reason}")
                layout.add(parts, action, rule.line)
                if context.tracked:
                    _behind_conntrack(where).add(parts, Action(tuple(context.tracked)), rule.line)
                return losses
        except Lost as error:
            lost = lost or error
    assert lost is not None, "a rule has a reading, or no translation"
    layout.chain.remark(f"LOST line {rule.line}: {rule.text}: {lost.reason}")
    return [Loss(rule.line, rule.text, lost.part or "rule", lost.reason, lost.advice)]


def _behind_conntrack(where: _Where) -> Layout:
    chains = where.target.chains
    return Layout(chains.tracked(where.names[where.chain.name], tracked_line(where.chain)), chains.fresh)


def _translated(parsed: ParsedRule, where: _Where) -> tuple[list[Part], Action, Context]:
    context = where.context(parsed)
    try:
        parts = head_parts(context)
    except (ValueError, LookupError) as error:
        raise Lost(f"its addresses, interfaces or protocol are not understood ({error})") from None
    parts += _match_parts(parsed, context)
    context.parts = tuple(parts)
    return parts, _action(parsed, context, where), context


def _match_parts(parsed: ParsedRule, context: Context) -> list[Part]:
    parts: list[Part] = []
    for match in parsed.matches:
        translator = match_translator(match.name)
        assert translator is not None, "readings() knows it"
        try:
            parts += translator.translate(match, context)
        except Lost as lost:
            raise Lost(lost.reason, lost.advice, f"-m {match}") from None
        except (ValueError, LookupError) as error:
            raise Lost(f"its options are not understood ({error})", "", f"-m {match}") from None
    return parts


def _action(parsed: ParsedRule, context: Context, where: _Where) -> Action:
    counted = Statement(_counter(parsed.source.counters))
    remark = (Statement(names.comment(context.comment)),) if context.comment else ()
    target = parsed.target
    if target is None:
        return Action((counted,), remark)
    if target.name in where.chains.own:
        chain = where.names[target.name].name
        if parsed.goto and where.chain.policy == "QUEUE":  # what comes back from there is what the policy gets
            return Action((counted,), remark, rows=((Statement(f"jump {chain}"),), (Statement("queue"),)))
        verb = "goto" if parsed.goto else "jump"
        return Action((counted, Statement(f"{verb} {chain}")), remark, leaves=parsed.goto)
    if target.name in VERDICTS:
        if target.name == "RETURN" and where.chain.policy is None:
            return Action((counted, Statement("return")), remark, leaves=True)
        verdict = where.chain.policy if target.name == "RETURN" else target.name
        assert verdict is not None
        return Action((counted, _VERDICTS[verdict]), remark)
    translator = target_translator(target.name)
    assert translator is not None, "readings() knows it"
    try:
        done = translator.translate(target, context)
    except Lost as lost:
        raise Lost(lost.reason, lost.advice, f"-j {target}") from None
    except (ValueError, LookupError) as error:
        raise Lost(f"its options are not understood ({error})", "", f"-j {target}") from None
    if isinstance(done, Rows):
        return Action((counted,), remark, rows=done.rows)
    return Action((counted, *done), remark)


def _counter(counted: Counters | None) -> str:
    return "counter" if counted is None else f"counter packets {counted.packets} bytes {counted.bytes}"


def _end(chain: SourceChain, layout: Layout) -> None:
    """What the policy has counted; and a policy that nft has no word for."""
    statements = [Statement(_counter(chain.counters))]
    if chain.policy == "QUEUE":
        statements.append(Statement("queue"))
    layout.chain.add((*statements, Statement(names.comment(POLICY))), chain.line)
