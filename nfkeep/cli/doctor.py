"""`nfkeep doctor`: what is wrong on this host, or soon will be, why that matters, and what mends it.

Each part of nfkeep examines what it is about; here their findings are told.
"""

from __future__ import annotations

import importlib
import json

import click

from nfkeep.cli import chosen
from nfkeep.cli.chosen import say
from nfkeep.cli.table import plain
from nfkeep.keep.health_finding import Finding, Severity

__all__ = ["doctor"]

_EXAMINE = ("nfkeep.bans.health", "nfkeep.keep.health")
"""Modules whose `examine` finds something."""


@click.command(short_help="Find what is wrong, and how to mend it.")
@chosen.as_json
def doctor(as_json: bool) -> int:
    """Look at this kernel, the ban lists, and the state in legacy tables. Nothing is changed.

    Of each thing: ok, warn or bad; and if it is not ok, why that matters, and the commands that mend it here. Exit
    status 1 if anything is bad.
    """
    found: list[Finding] = [finding for name in _EXAMINE for finding in importlib.import_module(name).examine()]
    if as_json:
        print(json.dumps([_object(finding) for finding in found], indent=2))
    else:
        for finding in found:
            _print(finding)
    bad = sum(finding.severity is Severity.BAD for finding in found)
    if bad:
        say("one thing is bad" if bad == 1 else f"{bad} things are bad")
    return 1 if bad else 0


def _print(finding: Finding) -> None:
    severity = finding.severity.value
    click.echo(f"{click.style(severity.ljust(4), fg=_COLOURS[finding.severity], bold=True)}  {plain(finding.what)}")
    for label, text in (("why", finding.why), ("fix", finding.fix)):
        for number, line in enumerate(text.splitlines()):
            click.echo(f"      {'     ' if number else f'{label}: '}{plain(line)}")


def _object(finding: Finding) -> dict[str, str]:
    return {"severity": finding.severity.value, "what": finding.what, "why": finding.why, "fix": finding.fix}


_COLOURS = {Severity.OK: "green", Severity.WARN: "yellow", Severity.BAD: "red"}
