"""nfkeepd, the optional service: unprivileged programs ban in the lists that they were given, and do nothing else.

It speaks JSON lines on a unix socket, knows its clients by what the kernel says of them, and uses the public API only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `nfkeepd`, with the process's arguments unless some are given; the exit status."""
    from nfkeep.service.command import run

    return run(arguments)
