"""`nfkeep-migrate`, the move from iptables to nftables: its entry point, which costs nothing to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `nfkeep-migrate`, with the process's arguments unless some are given; the exit status."""
    return cli.run("nfkeep-migrate", "nfkeep.cli._migrate", arguments)
