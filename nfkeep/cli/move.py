"""`nfkeep-migrate apply`: the move of this host."""

from __future__ import annotations

import functools
import importlib
import math
import shlex
import sys
from typing import TYPE_CHECKING

import click

from nfkeep.cli import outcomes, progress
from nfkeep.errors import NfkeepError
from nfkeep.migrate.live import collection, record
from nfkeep.migrate.live.host import read_ahead, read_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nfkeep.keep.report import Report
    from nfkeep.migrate.live.host import Host
    from nfkeep.model import Family

__all__ = ["apply"]

_EPILOG = "Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage."
_LONGEST_SECONDS = 366 * 86400  # select() refuses what is far beyond that
_STEPS = 3
"""How many times it is told what is about to be done: here, and twice by `cutover.apply`."""


@click.command(short_help="Move this host to nftables, with its state.", epilog=_EPILOG)
@click.option(
    "--confirm", "seconds", type=click.FloatRange(1, _LONGEST_SECONDS), metavar="SECONDS",
    help="Undo it all after so long, unless `nfkeep-migrate confirm` was called.",
)  # fmt: skip
@click.option(
    "--probe", default="", metavar="COMMAND", help="Run it in / every second until then: if it fails, undo it."
)
@click.option("--accept-losses", is_flag=True, help="Go on though some rules cannot be expressed in nft.")
def apply(seconds: float | None, probe: str, accept_losses: bool) -> int:
    """Put this host's rules of iptables into nft and out of action in iptables, with what they have in memory.

    At no moment are there fewer rules than before: nft's come first, then those of iptables are put out of action,
    and are taken out when the move is confirmed. Until then `nfkeep-migrate rollback` puts them back into force.
    """
    if seconds is not None and math.isnan(seconds):  # which is in every range
        raise click.UsageError("--confirm: nan is no number of seconds")
    if probe and seconds is None:
        raise click.UsageError("--probe wants --confirm, which says for how long")
    if probe:
        _try(probe)
    try:
        with record.locked(wait=False), collection.put_off(), progress.steps(_STEPS) as tell:
            tell("reading the rules and translating them")
            host = read_host(meanwhile=_get_ready)
            report = _moved(host, tell, seconds, probe, accept_losses=accept_losses)
            collection.leave_out()
    except KeyboardInterrupt:
        print("interrupted; `nfkeep-migrate status` tells which rules are in force", file=sys.stderr)
        raise
    outcomes.show(report)
    if seconds is None:
        print("The rules of nft are in force. Now: nfkeep-migrate confirm, or nfkeep-migrate rollback")
    else:
        print(f"The rules of nft are in force, for {seconds:g} seconds unless you call: nfkeep-migrate confirm")
    return 0


def _get_ready(rules: Mapping[Family, str]) -> None:
    """Take the rules apart, and import all that the move needs from here on, and what undoes it."""
    read_ahead(rules)
    importlib.import_module("nfkeep.migrate.live.cutover")


def _moved(
    host: Host, tell: Callable[[str], None], seconds: float | None, probe: str, *, accept_losses: bool
) -> Report:
    from nfkeep.migrate.live import cutover, watch
    from nfkeep.migrate.live.plan import make_plan

    made = make_plan(host, try_out=False)
    cutover.check(made, accept_losses=accept_losses)
    waiting = None if seconds is None else functools.partial(watch.start, seconds, probe)
    return cutover.apply(made, tell, seconds=seconds, watch=waiting)


def _try(probe: str) -> None:
    from nfkeep.migrate.live import watch

    if not watch.probed(_words(probe)):
        raise NfkeepError(f"the probe fails before anything is changed: {probe}")


def _words(probe: str) -> list[str]:
    try:
        return shlex.split(probe)
    except ValueError as error:
        raise click.UsageError(f"--probe: {error}") from None
