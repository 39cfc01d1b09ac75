"""Rows for people: a drawn table on a terminal, aligned lines for everything else.

What comes from the kernel may have been put there by anybody, so nothing in a cell reaches a terminal but print.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from nfkeep.bans.values import Address

__all__ = ["by_address", "plain", "show"]


def show(headings: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO | None = None) -> None:
    """Print rows under headings, on stdout if no other file is given."""
    file = file or sys.stdout
    clean = [[plain(cell) for cell in row] for row in rows]
    if file.isatty():
        _draw(headings, clean, file)
    else:
        _align([[heading.upper() for heading in headings], *clean], file)


def plain(text: str) -> str:
    """The text, with escapes for what is not printable."""
    return text if text.isprintable() else ascii(text)[1:-1]


def by_address(address: Address) -> tuple[int, int, int]:
    """What to sort by: IPv4 first, then the address, a network before what is in it."""
    if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return address.version, int(address), address.max_prefixlen
    return address.version, int(address.network_address), address.prefixlen


def _draw(headings: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*(heading.capitalize() for heading in headings))
    for row in rows:
        table.add_row(*map(escape, row))
    Console(file=file).print(table)


def _align(rows: Sequence[Sequence[str]], file: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=file)
