"""`nfkeep fail2ban restore` and `flush`: what the action nfkeep.conf needs to know of fail2ban's database.

Nobody else calls them, so the group does not list them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from nfkeep.bans.choose import BACKENDS
from nfkeep.integrations.fail2ban.adopt import lift_flushed
from nfkeep.integrations.fail2ban.database import DATABASE, persisted
from nfkeep.integrations.fail2ban.lists import JailList
from nfkeep.integrations.fail2ban.options import GRACE_SECONDS, Options

__all__ = ["flush", "restore"]


def _for_the_action(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--database", type=click.Path(path_type=Path), default=DATABASE, show_default=True),
        click.option("--jail", required=True),
        click.option("--backend", type=click.Choice(BACKENDS), default="nft", show_default=True),
        click.argument("name", metavar="LIST"),
    ):
        command = option(command)
    return command


@click.command(hidden=True, short_help="Put in force whom a jail bans by the database.")
@_for_the_action
@click.option("--grace", type=click.FloatRange(0), default=GRACE_SECONDS, show_default=True, help="Seconds on top.")
def restore(name: str, backend: str, jail: str, database: Path, grace: float) -> None:
    """Put all bans in force that fail2ban's database has of a jail. The LIST must be there."""
    logging.basicConfig(format="nfkeep: %(message)s")
    opened = _opened(name, backend, grace)
    with opened.bans:
        if database.exists():
            opened.put(persisted(database, jail), logging.getLogger("nfkeep.fail2ban"))


@click.command(hidden=True, short_help="Lift all bans that fail2ban lifted.")
@_for_the_action
@click.option("--at", type=float, required=True, help="When fail2ban flushed: seconds since 1970.")
def flush(name: str, backend: str, jail: str, database: Path, at: float) -> None:
    """Lift all bans of LIST if fail2ban has dropped them from its database, and none if it is only being stopped."""
    opened = _opened(name, backend, GRACE_SECONDS)
    with opened.bans:
        lift_flushed(opened, database, jail, at)


def _opened(name: str, backend: str, grace: float) -> JailList:
    return JailList.adopt(Options(name, name, backend=backend, grace_seconds=grace))
