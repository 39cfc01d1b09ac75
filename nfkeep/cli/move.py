"""`nfkeep-migrate apply | confirm | rollback | status`: the move of this host, and the way back."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfkeep.cli import progress, table
from nfkeep.errors import NfkeepError
from nfkeep.keep.report import Fidelity
from nfkeep.migrate.live import collection, cutover, persist, record, watch
from nfkeep.migrate.live.host import read_host
from nfkeep.migrate.live.plan import make_plan

if TYPE_CHECKING:
    from nfkeep.keep.report import Report

__all__ = ["apply", "confirm", "rollback", "status"]

_EPILOG = "Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage."


@click.command(short_help="Move this host to nftables, with its state.", epilog=_EPILOG)
@click.option(
    "--confirm", "seconds", type=click.FloatRange(1), metavar="SECONDS",
    help="Undo it all after so long, unless `nfkeep-migrate confirm` was called.",
)  # fmt: skip
@click.option("--probe", default="", metavar="COMMAND", help="Run it every second until then: if it fails, undo it.")
@click.option("--accept-losses", is_flag=True, help="Go on though some rules cannot be expressed in nft.")
def apply(seconds: float | None, probe: str, accept_losses: bool) -> int:
    """Put this host's rules of iptables into nft and out of action in iptables, with what they have in memory.

    At no moment are there fewer rules than before: nft's come first, then those of iptables are put out of action,
    and are taken out when the move is confirmed. Until then `nfkeep-migrate rollback` puts them back into force.
    """
    if probe and seconds is None:
        raise click.UsageError("--probe wants --confirm, which says for how long")
    if probe and not watch.probed(_words(probe)):
        raise NfkeepError(f"the probe fails before anything is changed: {probe}")
    try:
        with record.locked(wait=False), collection.put_off(), progress.steps(1 + cutover.STEPS) as tell:
            tell("reading the rules and translating them")
            made = make_plan(read_host(), try_out=False)
            cutover.check(made, accept_losses=accept_losses)
            waiting = None if seconds is None else functools.partial(watch.start, seconds, probe)
            report = cutover.apply(made, tell, seconds=seconds, watch=waiting)
    except KeyboardInterrupt:
        print("interrupted; `nfkeep-migrate status` tells which rules are in force", file=sys.stderr)
        raise
    _tell(report)
    if seconds is None:
        print("The rules of nft are in force. Now: nfkeep-migrate confirm, or nfkeep-migrate rollback")
    else:
        print(f"The rules of nft are in force, for {seconds:g} seconds unless you call: nfkeep-migrate confirm")
    return 0


@click.command(short_help="Make the move final.", epilog=_EPILOG)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help=f"Write the rules of nft there, for the next boot.  [default: {persist.CONFIGURATION}, in the host's own"
    " network namespace]",
)  # fmt: skip
@click.option("--no-config", is_flag=True, help="Write them nowhere, and leave the services of systemd alone.")
def confirm(config: Path | None, no_config: bool) -> int:
    """Keep the rules of nft, take those of iptables out, and have nft's loaded at the next boot."""
    with record.locked():
        own = record.folder().name == record.HOST
        path = config or (persist.CONFIGURATION if own and not no_config else None)
        if path is not None:
            persist.check(path)
        switching = own and config is None and not no_config
        again = persist.is_unfinished()
        if switching:
            persist.remember()
        cutover.confirm(again=again)
        done = ["Confirmed: the rules of iptables are taken out."]
        if path is not None:
            done += persist.write(path)
        if switching:
            done += persist.switch_services()
            persist.finish()
    print(*done, sep="\n")
    return 0


@click.command(short_help="Put the rules of iptables back into force.", epilog=_EPILOG)
def rollback() -> int:
    """Put the rules of iptables back into force with their state, and take those of nft out.

    What nft has counted and collected since comes along, also after `nfkeep-migrate confirm`.
    """
    with record.locked():
        done = persist.go_back()
        report = cutover.rollback()
    _tell(report)
    print("Rolled back: the rules of iptables are in force.", *done, sep="\n")
    return 0


@click.command(short_help="Tell how far the move is, and which rules are in force.", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def status(as_json: bool) -> int:
    """Tell which rules are in force now, how far the move is, and what was done when."""
    found = cutover.standing()
    state = "not begun" if found.record is None else found.record.state
    left = None
    if found.running and found.record is not None and found.record.deadline is not None:
        left = max(0.0, found.record.deadline - time.monotonic())
    steps = () if found.record is None else found.record.steps
    if as_json:
        print(
            json.dumps(
                {"state": state, "iptables": found.old, "nft": found.new, "seconds_left": left, "steps": list(steps)}
            )
        )
        return 0
    force = [name for name, there in (("iptables", found.old), ("nft", found.new)) if there]
    print(f"The move is {state}. In force: {' and '.join(force) or 'no rules'}.")
    if left is not None:
        print(f"It is undone in {left:.0f} seconds unless you call: nfkeep-migrate confirm")
    elif found.limited:
        print("It was to be undone, but nobody waits for that: call nfkeep-migrate confirm, or nfkeep-migrate rollback")
    for seconds, what in steps:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}  {what}")
    return 0


def _words(probe: str) -> list[str]:
    try:
        return shlex.split(probe)
    except ValueError as error:
        raise click.UsageError(f"--probe: {error}") from None


def _tell(report: Report) -> None:
    rows = [(o.kind, o.where, f"{o.fidelity}", o.detail) for o in report.outcomes]
    if rows := [row for row in rows if row[2] != Fidelity.SURVIVES.value]:
        table.show(("state", "where", "is", "how"), rows)
