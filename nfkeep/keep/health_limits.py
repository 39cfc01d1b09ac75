"""The checks of connection limits: what would forget their counts, and how each is moved where nothing does. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import attrs

from nfkeep.keep import hold
from nfkeep.keep.health_finding import Finding, Severity
from nfkeep.keep.health_move import HOME, Move, Mover, Obstacle, spelled
from nfkeep.keep.health_owners import owners
from nfkeep.keep.health_seen import Seen
from nfkeep.keep.observe import Found, Observation
from nfkeep.keep.paths import Reach
from nfkeep.keep.plan import make_plan
from nfkeep.keep.report import Fidelity
from nfkeep.model import Family, Hook
from nfkeep.xtables import connlimit
from nfkeep.xtables.text import split


def connection_limits(host: Seen) -> Iterator[Finding]:
    """Each connlimit rule: who would have it forget its connections, and whether nfkeep counts them again."""
    states = {state.where: state for state in host.states if state.kind == connlimit.NAME}
    for family in Family:
        tables = host.of(family)
        moves = _moves(host, family)
        for table in tables.values():
            for found in _limits(table):
                where = table.where(found)
                state = states.get(where)
                what = f"connlimit at {where}" + (f" ({state.content})" if state is not None else "")
                if state is not None and state.on_change is Fidelity.LOST:
                    yield _uncounted(tables, table, found, f"{what}: {state.detail}", moves.get(where))
                else:
                    yield _counted(tables, table, what, moves.get(where))


def _counted(tables: Mapping[str, Observation], table: Observation, what: str, move: Move | Obstacle | None) -> Finding:
    programs = [f"{program} (chain {chain})" for program, chain in owners(table.chains).items()]
    if table.table not in _EDITED and not programs:
        return Finding(Severity.OK, f"{what}: in a table that no program known here edits")
    by = f"{' and '.join(programs)}, like every other program" if programs else "every program"
    why = f"{by} that changes a rule there without nfkeep gives each client its whole limit once more"
    fix = f"{_command(table)} ARGS…   # in place of {_command(table)[7:]}"
    if isinstance(move, Move):
        why += f"; these commands move the count to {HOME}{_but(move, tables.get(HOME))}"
        fix = "\n".join(move.commands)
    elif isinstance(move, Obstacle):
        why += f"; it cannot be moved to {HOME} as it is: {move.reason}"
    return Finding(Severity.WARN, f"{what}: forgotten at every iptables command on {table.table}", why, fix)


def _uncounted(
    tables: Mapping[str, Observation], table: Observation, found: Found, what: str, move: Move | Obstacle | None
) -> Finding:
    why = "so nfkeep cannot have its connections counted again, and each change of the table forgets them"
    command = _command(table) + ("" if table.table == "filter" else f" -t {table.table}")
    others = tuple(each for each in tables.values() if each is not table)
    if isinstance(move, Move) and _counted_in_mangle(tables, table, found):
        why += f"; these commands move the count to {HOME}, past that{_but(move, tables.get(HOME))}"
        fix = "\n".join(move.commands)
    elif found.chain in Hook.__members__ and found.position > 1 and _is_counted(_with_first(table, found), others):
        why += "; as the first rule of its chain it can, but then it also counts what the rules before it accept now"
        rule = shlex.join(spelled(found) or split(str(found.rule)))
        fix = f"{command} -I {found.chain} 1 {rule}\n{command} -D {found.chain} {found.position + 1}"
    else:
        why += "; they have to come to it undisturbed"
        fix = f"{command} -L {shlex.quote(found.chain)} -n -v --line-numbers   # what is before it?"
    return Finding(Severity.BAD, what, why, fix)


def _with_first(table: Observation, found: Found) -> Observation:
    """The table, were a rule the first of its chain."""
    behind = (
        attrs.evolve(each, position=each.position + 1)
        if each.chain == found.chain and each.position < found.position
        else each
        for each in table.found
        if each is not found
    )
    return attrs.evolve(table, found=(attrs.evolve(found, position=1), *behind))


def _counted_in_mangle(tables: Mapping[str, Observation], table: Observation, found: Found) -> bool:
    """Whether the connections of a rule of filter would be counted again, were it the first of mangle."""
    mangle = tables.get(HOME) or attrs.evolve(table, table=HOME, found=())
    without = attrs.evolve(table, found=tuple(each for each in table.found if each is not found))
    others = (without, *(each for name, each in tables.items() if name not in (HOME, table.table)))
    bases = {s.hook.name for s in Reach(table).selectors(found)}
    moved = (attrs.evolve(found, chain=base, position=0) for base in bases)
    return bool(bases) and all(_is_counted(attrs.evolve(mangle, found=(each, *mangle.found)), others) for each in moved)


def _is_counted(table: Observation, others: tuple[Observation, ...]) -> bool:
    """Whether the connections of a table's first rule are counted again after a change, as far as the plan knows."""
    plan = make_plan(table, table, others)
    return any(limit.where == table.where(table.found[0]) and not limit.hazard for limit in plan.limits)


def _moves(host: Seen, family: Family) -> dict[str, Move | Obstacle]:
    """How each connlimit rule of the family's `filter` is moved."""
    tables = host.of(family)
    if "filter" not in tables:
        return {}
    policies = {(table, chain): policy for (of, table, chain), policy in host.policies.items() if of is family}
    mover = Mover(tables, policies, host.marks)
    return {tables["filter"].where(found): mover.move(found) for found in _limits(tables["filter"])}


def _limits(table: Observation) -> list[Found]:
    return [each for each in table.found if each.chain != hold.CHAIN and any(each.matches(connlimit.NAME))]


def _but(move: Move, mangle: Observation | None) -> str:
    there = list(owners(mangle.chains)) if mangle is not None else []
    told = f"; there {move.but}" if move.but else ""
    return told + (f"; {' and '.join(there)} edit{'s' if len(there) == 1 else ''} {HOME}, too" if there else "")


def _command(table: Observation) -> str:
    return f"nfkeep {'ip6tables' if table.family is Family.IPV6 else 'iptables'}"


_EDITED = ("filter", "nat")
"""Tables that people and programs add rules to, whoever they are."""
