"""The group `nfkeep-migrate`: which commands there are. Apart from its entry point, which must load without click."""

from __future__ import annotations

import click

import nfkeep
from nfkeep.cli.group import Group

__all__ = ["command"]

_COMMANDS = {
    "translate": "nfkeep.cli.translate",
    "verify": "nfkeep.cli.verify",
    "plan": "nfkeep.cli.plan",
    "apply": "nfkeep.cli.move",
    "confirm": "nfkeep.cli.moved",
    "rollback": "nfkeep.cli.moved",
    "status": "nfkeep.cli.moved",
}


@click.group(cls=Group, homes=_COMMANDS, epilog="Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage.")
@click.version_option(nfkeep.__version__, message="%(prog)s %(version)s")
def command() -> None:
    """Move a host from iptables to nftables: the rules, and what they have in memory."""
