"""The group `nfkeep`: which commands there are, and in which module each one is."""

from __future__ import annotations

import click

import nfkeep
from nfkeep.cli.group import Group

__all__ = ["command"]

_COMMANDS = {
    "allow": "nfkeep.cli.allow",
    "ban": "nfkeep.cli.bans",
    "bans": "nfkeep.cli.banned",
    "demo": "nfkeep.cli.demo",
    "doctor": "nfkeep.cli.doctor",
    "fail2ban": "nfkeep.cli.fail2ban",
    "hold": "nfkeep.cli.holding",
    "ip6tables": "nfkeep.cli.iptables",
    "iptables": "nfkeep.cli.iptables",
    "list": "nfkeep.cli.lists",
    "recover": "nfkeep.cli.recover",
    "release": "nfkeep.cli.holding",
    "run": "nfkeep.cli.running",
    "show": "nfkeep.cli.show",
    "unban": "nfkeep.cli.bans",
}


@click.group(cls=Group, homes=_COMMANDS, epilog="Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage.")
@click.version_option(nfkeep.__version__, message="%(prog)s %(version)s")
def command() -> None:
    """Change netfilter rules and keep the state that they hold: connection limits, lists, counters."""
