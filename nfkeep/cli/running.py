"""`nfkeep run -- COMMAND…`: run anything that changes legacy rules, with the state kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from nfkeep.cli.outcomes import tell_outcomes
from nfkeep.cli.recover import tell
from nfkeep.keep.keeping import keep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import TextIO

__all__ = ["run"]

_NOT_FOUND, _NOT_RUN = 127, 126  # as a shell has it
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)

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
    command = _Command(arguments)
    with _handled(command.signalled):
        with keep() as kept:
            status = command.run()
        tell(kept.report.recovered)
        tell_outcomes(kept.report, file)
    return status


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have it called for signals that would end or stop this process; not for those that are ignored, as by nohup."""
    before = {
        number: signal.signal(number, handler) for number in _HANDLED if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class _Command:
    """COMMAND, which decides what signals mean; its tables are looked after until it has ended."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []  # signals from before it was started

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on. The keys of a terminal send theirs to COMMAND themselves."""
        if number == signal.SIGTSTP:  # stopped, this process would let everybody wait who opens the xtables lock
            return
        if self._process is None:
            self._early.append(number)
        elif number != signal.SIGINT:
            self._process.send_signal(number)

    def run(self) -> int:
        """Run it, unless there was a signal before; its exit status as a shell has it."""
        if self._early:
            return 128 + self._early[0]
        try:
            self._process = subprocess.Popen(self._arguments)
        except FileNotFoundError:
            print(f"nfkeep: {self._arguments[0]}: command not found", file=sys.stderr)
            return _NOT_FOUND
        except OSError as error:
            print(f"nfkeep: {self._arguments[0]}: {os.strerror(error.errno or 0)}", file=sys.stderr)
            return _NOT_RUN
        for number in self._early:  # while it was started
            self._process.send_signal(number)
        status = self._process.wait()
        return status if status >= 0 else 128 - status
