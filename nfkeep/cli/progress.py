"""What a long command is doing: a bar on a terminal, a line for each step anywhere else; on stderr."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["steps"]


@contextlib.contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """Something to call before each of `total` steps, with what it is."""
    if not sys.stderr.isatty():
        yield _print
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)
        begun = 0

        def tell(what: str) -> None:
            nonlocal begun
            bar.update(task, description=what, completed=begun)
            begun += 1

        yield tell


def _print(what: str) -> None:
    print(f"nfkeep-migrate: {what}", file=sys.stderr)
