"""The click side of `nfkeep-migrate`, apart from its entry point, which must load where click is missing.

It has no commands yet.
"""

from __future__ import annotations

import click

import nfkeep

__all__ = ["command"]

_NOT_YET = "the commands of nfkeep-migrate come with the translator and are not there yet"


@click.command(context_settings={"ignore_unknown_options": True})
@click.version_option(nfkeep.__version__, message="%(prog)s %(version)s")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def command(arguments: tuple[str, ...]) -> None:
    """Move a host from iptables to nftables with its state.

    Nothing of that is there yet: the commands come with the translator, in a later version. This one has --help and
    --version only, and anything else ends with exit status 2.
    """
    raise click.UsageError(_NOT_YET)
