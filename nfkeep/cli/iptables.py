"""`nfkeep iptables ARGS…` and `nfkeep ip6tables ARGS…`: the real iptables, with the state of its table kept.

Every argument goes to iptables as it is, `--help` and `--` included; what came of the state is told on stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from nfkeep.cli.recover import tell
from nfkeep.keep.command import run_iptables
from nfkeep.keep.report import Fidelity, Report
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["REPORT_FILE", "ip6tables", "iptables"]

#: The environment variable that names a file for the report, as JSON.
REPORT_FILE = "NFKEEP_REPORT"


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
        finished = run_iptables(family, arguments)
        report = finished.report or Report()
        if file is not None:
            file.write(report.to_json() + "\n")
    tell(report.recovered)
    for outcome in report.outcomes:
        if outcome.fidelity is not Fidelity.SURVIVES:
            print(f"nfkeep: {outcome}", file=sys.stderr)
    status = finished.status
    return status if status >= 0 else 128 - status  # killed by a signal: what a shell would say


@contextlib.contextmanager
def _report_file() -> Iterator[TextIO | None]:
    """The file that is to have the report, opened before anything is changed."""
    path: Any = os.environ.get(REPORT_FILE)
    if not path:
        yield None
        return
    with open(path, "w", encoding="utf-8") as file:
        yield file
