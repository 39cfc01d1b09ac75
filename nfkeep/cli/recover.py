"""`nfkeep recover`: finish or undo what a killed process has left in the middle."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from nfkeep.cli import chosen
from nfkeep.keep.recovery import recover as recover_now
from nfkeep.keep.report import Fidelity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nfkeep.keep.report import Recovered

__all__ = ["recover", "tell"]


@click.command(short_help="Finish or undo a change that was cut off.")
@chosen.as_json
def recover(as_json: bool) -> None:
    """Finish a change of legacy tables whose process was killed in the middle; if only some of its tables were
    replaced, put these back as they were. The next change made with nfkeep does the same by itself.
    """
    recovered = recover_now()
    if as_json:
        print(json.dumps([json.loads(each.to_json()) for each in recovered], indent=2))
        return
    for each in recovered:
        print(each)
        for outcome in each.report.outcomes:
            print(f"  {outcome}")
    if not recovered:
        print("nothing was left behind")


def tell(recovered: Iterable[Recovered]) -> None:
    """Say on stderr what another command has recovered before its own work."""
    for each in recovered:
        print(f"nfkeep: {each}", file=sys.stderr)
        for outcome in each.report.outcomes:
            if outcome.fidelity is not Fidelity.SURVIVES:
                print(f"nfkeep:   {outcome}", file=sys.stderr)
