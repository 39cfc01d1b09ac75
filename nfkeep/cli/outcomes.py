"""What became of each state, in lines or as a table, and who else has to be told of a move."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nfkeep.cli import table
from nfkeep.keep.report import Fidelity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from nfkeep.keep.report import Report
    from nfkeep.migrate.live.owners import Owner

__all__ = ["show", "show_owners", "tell_outcomes"]


def tell_outcomes(report: Report, file: TextIO | None) -> None:
    """Print a line on stderr for all but what the kernel keeps by itself, and write the whole as JSON to `file`.

    That it cannot be written is told, and no failure: what it tells of has been done.
    """
    for outcome in report.outcomes:
        if outcome.fidelity is not Fidelity.SURVIVES:
            print(f"nfkeep: {outcome}", file=sys.stderr)
    if file is None:
        return
    try:
        file.write(report.to_json() + "\n")
        file.flush()
    except OSError as error:
        print(f"nfkeep: the report cannot be written to {file.name}: {error.strerror}", file=sys.stderr)


def show(report: Report) -> None:
    """Print all but what the kernel keeps by itself."""
    rows = [(o.kind, o.where, f"{o.fidelity}", o.detail) for o in report.outcomes]
    if rows := [row for row in rows if row[2] != Fidelity.SURVIVES.value]:
        table.show(("state", "where", "is", "how"), rows)


def show_owners(owners: Iterable[Owner]) -> None:
    """Print what to change in each program that goes on writing with iptables."""
    table.show(("program", "told by", "what to do"), [(each.program, each.by, each.advice) for each in owners])
