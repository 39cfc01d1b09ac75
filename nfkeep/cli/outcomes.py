"""What became of each state in a move, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.cli import table
from nfkeep.keep.report import Fidelity

if TYPE_CHECKING:
    from nfkeep.keep.report import Report

__all__ = ["show"]


def show(report: Report) -> None:
    """Print all but what the kernel keeps by itself."""
    rows = [(o.kind, o.where, f"{o.fidelity}", o.detail) for o in report.outcomes]
    if rows := [row for row in rows if row[2] != Fidelity.SURVIVES.value]:
        table.show(("state", "where", "is", "how"), rows)
