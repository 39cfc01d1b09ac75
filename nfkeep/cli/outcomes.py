"""What a move has to tell, as tables: what became of each state, and who else has to be told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.cli import table
from nfkeep.keep.report import Fidelity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.keep.report import Report
    from nfkeep.migrate.live.owners import Owner

__all__ = ["show", "show_owners"]


def show(report: Report) -> None:
    """Print all but what the kernel keeps by itself."""
    rows = [(o.kind, o.where, f"{o.fidelity}", o.detail) for o in report.outcomes]
    if rows := [row for row in rows if row[2] != Fidelity.SURVIVES.value]:
        table.show(("state", "where", "is", "how"), rows)


def show_owners(owners: Iterable[Owner]) -> None:
    """Print what to change in each program that goes on writing with iptables."""
    table.show(("program", "told by", "what to do"), [(each.program, each.by, each.advice) for each in owners])
