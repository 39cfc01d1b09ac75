"""`nfkeep run -- COMMAND…`: run anything that changes legacy rules, with the state kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from nfkeep.cli.recover import tell
from nfkeep.keep.keeping import keep
from nfkeep.keep.report import Fidelity

if TYPE_CHECKING:
    from types import FrameType
    from typing import TextIO

__all__ = ["run"]

_NOT_FOUND, _NOT_RUN = 127, 126  # as a shell has it

_REPORT = click.File("w", lazy=False)
"""Opened before anything is changed; if that fails, nothing is."""


@click.command(
    short_help="Run a command that changes rules, with their state kept.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--json", "file", type=_REPORT, metavar="FILE", help="Write the report there, as JSON.")
@click.argument("arguments", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...], file: TextIO | None) -> int:
    """Run COMMAND, which may change legacy tables in any way, for instance `ufw reload`; what became of each state is
    told on stderr. The exit status is that of COMMAND.
    """
    # Stopped by Ctrl-Z, this process would let everybody wait who opens the xtables lock.
    stopping = signal.signal(signal.SIGTSTP, _take_no_notice)
    try:
        with keep() as kept:
            status = _run(arguments)
    finally:
        signal.signal(signal.SIGTSTP, stopping)
    if file is not None:
        file.write(kept.report.to_json() + "\n")
    tell(kept.report.recovered)
    for outcome in kept.report.outcomes:
        if outcome.fidelity is not Fidelity.SURVIVES:
            print(f"nfkeep: {outcome}", file=sys.stderr)
    return status


def _run(arguments: tuple[str, ...]) -> int:
    # Ctrl-C goes to the command as well; what it does about that decides, and we look after its tables.
    interrupting = signal.signal(signal.SIGINT, _take_no_notice)
    try:
        process = subprocess.Popen(arguments)
    except FileNotFoundError:
        print(f"nfkeep: {arguments[0]}: command not found", file=sys.stderr)
        return _NOT_FOUND
    except OSError as error:
        print(f"nfkeep: {arguments[0]}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        return _NOT_RUN
    else:
        with process:
            status = process.wait()
        return status if status >= 0 else 128 - status
    finally:
        signal.signal(signal.SIGINT, interrupting)


def _take_no_notice(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which the command would inherit."""
