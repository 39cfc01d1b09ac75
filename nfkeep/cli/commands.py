"""The group `nfkeep`: which commands there are, and in which module each one is.

A command's module is loaded when it is called or its help is asked for, so that none pays for another.
"""

from __future__ import annotations

import importlib

import click

import nfkeep

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


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
        return found


@click.group(cls=_Group, epilog="Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage.")
@click.version_option(nfkeep.__version__, message="%(prog)s %(version)s")
def command() -> None:
    """Change netfilter rules and keep the state that they hold: connection limits, lists, counters."""
