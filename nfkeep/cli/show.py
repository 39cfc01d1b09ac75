"""`nfkeep show`: every state in the legacy tables here, what is in it, and how it would come through a change.

A table for people on a terminal, aligned lines for everything else, or JSON.
"""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nfkeep.keep.overview import State, overview
from nfkeep.model import Family
from nfkeep.xtables.tables import in_use

__all__ = ["show"]

_HEADINGS = ("STATE", "WHERE", "CONTENT", "ON A CHANGE")


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects, empty if there is no state.")
def show(as_json: bool) -> None:
    """Show every state in the legacy iptables tables, and what a rule change made with nfkeep does to it.

    The last column has one word for it: survives, held, restored, approximated or lost.
    """
    states = overview()
    if as_json:
        print(json.dumps([_object(state) for state in states], indent=2))
    elif not states:
        print(_nothing())
    elif sys.stdout.isatty():
        _draw(states)
    else:
        _align([_HEADINGS, *map(_cells, states)])


def _nothing() -> str:
    if not any(in_use(family) for family in Family):
        return "There are no legacy iptables tables here."
    return "The legacy iptables tables here hold no state that a rule change could lose."


def _object(state: State) -> dict[str, str]:
    return {
        "kind": state.kind,
        "where": state.where,
        "content": state.content,
        "on_change": state.on_change.value,
        "detail": state.detail,
    }


def _cells(state: State) -> tuple[str, str, str, str]:
    fidelity = f"{state.on_change}: {state.detail}" if state.detail else f"{state.on_change}"
    return state.kind, state.where, state.content, fidelity


def _draw(states: tuple[State, ...]) -> None:
    table = Table(*(heading.capitalize() for heading in _HEADINGS))
    for state in states:
        table.add_row(*map(escape, _cells(state)))
    Console().print(table)


def _align(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
