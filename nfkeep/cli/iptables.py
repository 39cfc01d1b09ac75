"""`nfkeep iptables ARGS…` and `nfkeep ip6tables ARGS…`: the real iptables, with the state of its table kept.

Every argument goes to iptables as it is, `--help` and `--` included; what came of the state is told on stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nfkeep.cli.outcomes import tell_outcomes
from nfkeep.cli.recover import tell
from nfkeep.errors import LockTimeoutError
from nfkeep.keep.command import run_iptables
from nfkeep.keep.report import Report
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["REPORT_FILE", "ip6tables", "iptables"]

#: The environment variable that names a file for the report, as JSON.
REPORT_FILE = "NFKEEP_REPORT"

_RESOURCE_PROBLEM = 4


class _PassThrough(click.Command):
    """A command without options of its own, so that nothing that is meant for iptables is taken for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = tuple(args)
        return []


@click.command(cls=_PassThrough, add_help_option=False, short_help="Run iptables, with the state of its table kept.")
def iptables(arguments: tuple[str, ...]) -> int:
    """Run iptables with ARGS and keep the state of the table that it replaces."""
    return _run(Family.IPV4, arguments)


@click.command(cls=_PassThrough, add_help_option=False, short_help="The same with ip6tables.")
def ip6tables(arguments: tuple[str, ...]) -> int:
    """Run ip6tables with ARGS and keep the state of the table that it replaces."""
    return _run(Family.IPV6, arguments)


def _run(family: Family, arguments: tuple[str, ...]) -> int:
    with _report_file() as file:
        try:
            finished = run_iptables(family, arguments)
        except LockTimeoutError as error:
            return _locked_out(error)
        report = finished.report or Report()
        tell(report.recovered)
        tell_outcomes(report, file)
    status = finished.status
    return status if status >= 0 else 128 - status  # killed by a signal: what a shell would say


def _locked_out(error: LockTimeoutError) -> int:
    """What iptables says and returns then."""
    waited = round(error.waited_seconds)
    advice = f"Stopped waiting after {waited}s." if waited else "Perhaps you want to use the -w option?"
    print(f"Another app is currently holding the xtables lock. {advice}", file=sys.stderr)
    return _RESOURCE_PROBLEM


@contextlib.contextmanager
def _report_file() -> Iterator[TextIO | None]:
    """The file that is to have the report, opened before anything is changed."""
    path: Any = os.environ.get(REPORT_FILE)
    if not path:
        yield None
        return
    file = open(path, "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # what could not be written was told
            file.close()
