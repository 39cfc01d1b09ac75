"""`nfkeep hold`, `nfkeep release`: keep lists and tables of buckets alive by hand."""

from __future__ import annotations

import json
import sys

import click

from nfkeep.cli import chosen
from nfkeep.cli.recover import tell
from nfkeep.cli.table import plain
from nfkeep.keep import holding
from nfkeep.keep.observe import StateKey
from nfkeep.keep.recovery import recover
from nfkeep.keep.report import Outcome
from nfkeep.model import Family

__all__ = ["hold", "release"]


def _states(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[StateKey]:
    states = []
    for value in values:
        kind, colon, name = value.partition(":")
        if not (kind and colon and name):
            raise click.BadParameter(f"{value!r} is not KIND:NAME, as recent:sshd")
        states.append((kind, name))
    return states


@click.command(short_help="Keep a list alive, whatever becomes of its rules.")
@click.argument("states", metavar="KIND:NAME...", nargs=-1, required=True, callback=_states)
@chosen.as_json
def hold(states: list[StateKey], as_json: bool) -> None:
    """Place an inert rule that keeps a list alive while no other rule names it.

    KIND is recent, hashlimit, rateest or idletimer. The rule stands in a chain that nothing jumps to, nfkeep-hold, in a
    table that nobody edits, so no packet meets it.
    """
    tell(recover())
    _tell("held", holding.place(states, tell=_aside), as_json)


@click.command(short_help="Let go what is held.")
@click.argument("states", metavar="[KIND:NAME...]", nargs=-1, callback=_states)
@chosen.as_json
def release(states: list[StateKey], as_json: bool) -> None:
    """Remove the rules that hold these lists, or all. A list that no other rule names is gone with them."""
    tell(recover())
    _tell("released", holding.release(states or None, tell=_aside), as_json)


def _aside(outcome: Outcome) -> None:
    print(f"nfkeep: {outcome}", file=sys.stderr)


def _tell(done: str, states: tuple[tuple[Family, StateKey], ...], as_json: bool) -> None:
    if as_json:
        rows = [{"family": str(family), "kind": kind, "name": name} for family, (kind, name) in states]
        print(json.dumps(rows, indent=2))
        return
    for family, (kind, name) in states:
        print(f"{done}: {family} {kind}:{plain(name)}")
    if not states:
        print("nothing is held")
