"""Which ban list a command means, which addresses, and the options that all commands on ban lists share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from nfkeep.bans.banlist import BanList
from nfkeep.bans.choose import BACKENDS
from nfkeep.bans.discover import Listed, find, lists
from nfkeep.cli.table import plain
from nfkeep.errors import NfkeepError
from nfkeep.xtables import recent

__all__ = ["addresses", "as_json", "existing", "in_backend", "makeable", "opened", "say"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def in_backend(command: _Function) -> _Function:
    """The option --backend."""
    words = "Where the list is kept; auto: where it is, or else the first of nft, ipset, recent that this kernel has."
    return click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help=words)(
        command
    )


def as_json(command: _Function) -> _Function:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def existing(name: str, backend: str = "auto") -> Listed:
    """The list that is there. Raises NfkeepError if none is, InvalidListError, PermissionDeniedError."""
    found = find(name, backend)
    if found is not None:
        return found
    where = "" if backend == "auto" else f" in {backend}"
    others = ", ".join(dict.fromkeys(listed.name for listed in lists()))
    raise NfkeepError(f"there is no ban list {name}{where}; {f'there are: {others}' if others else 'there are none'}")


def makeable(name: str, backend: str) -> Listed | None:
    """The list if it is there; None if it can be made, and harm nobody.

    Raises NfkeepError if it is in another backend only, or if a list of recent with that name has another purpose.
    """
    found = find(name)
    if found is not None and backend not in ("auto", found.backend):
        other = find(name, backend)
        if other is None:
            raise NfkeepError(
                f"the ban list {name} is in {found.backend}, and in {backend} there would be a second one of that "
                f"name; leave --backend out, or first take the list down: nfkeep list remove {name}"
            )
        return other
    if found is None and backend == "auto" and recent.entries(name) is not None:
        raise NfkeepError(
            f"the kernel has a list {name} of xt_recent, made by rules of others: as a ban list, it would ban all who "
            "are in it. If they are to be banned say --backend recent; if not, choose another name, or --backend nft"
        )
    return found


def opened(listed: Listed) -> BanList:
    """The list, to be changed; what is missing of its rules is put back."""
    warn()
    return BanList(listed.name, listed.backend, timeout=listed.timeout).open()


def made(name: str, backend: str) -> BanList:
    """A new list, with everything as it is by default."""
    warn()
    return BanList(name, backend).open()


def reason(listed: Listed) -> str:
    """Why a list that is there is where it is, in words."""
    return f"the list is there, in {listed.backend}"


def warn() -> None:
    """Show what ban lists have to say by themselves, as that they grow."""
    logging.basicConfig(format="nfkeep: %(message)s")


def addresses(given: Sequence[str]) -> tuple[Iterable[str], bool]:
    """The addresses given as arguments, or for `-` the lines of stdin as they come; and whether it is the latter."""
    if "-" not in given:
        return given, False
    if len(given) > 1:
        raise click.UsageError("'-', for the lines of stdin, stands alone")
    return _lines(), True


def _lines() -> Iterator[str]:
    """Without empty ones, and without what follows a #."""
    for line in sys.stdin.buffer:
        text = line.partition(b"#")[0].strip().decode(errors="replace")
        if text:
            yield text


def say(message: object) -> None:
    """One line on stderr, behind what was printed on stdout before it."""
    sys.stdout.flush()
    print(f"nfkeep: {plain(' '.join(str(message).split()))}", file=sys.stderr)
