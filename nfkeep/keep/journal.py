"""What is in flight: while tables are replaced and their state is put back, a file in the run directory says what they
were, so that whoever comes after a crash can finish the change or undo it.

The writer holds a lock on the file; a file that nobody holds was left behind. After success nothing is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterator, Sequence

import attrs

from nfkeep.keep import rundir
from nfkeep.keep.observe import StateKey
from nfkeep.model import Family
from nfkeep.xtables.image import Image

_PREFIX = "change-"
_UNFINISHED = "new-"
_numbers = itertools.count(1)


@attrs.frozen(slots=True)
class Flight:
    """A change that began and has not ended: its tables as they were, in the order in which they are replaced, and the
    states that are held for it, by family. `together`: all of the tables are to change, or none.
    """

    before: tuple[Image, ...]
    holds: tuple[tuple[Family, StateKey], ...]
    together: bool = True


@contextlib.contextmanager
def written(flight: Flight) -> Iterator[None]:
    """Have the flight on record inside the block. Left by an exception the change is over as well: it was put right.

    Only a process that dies leaves the record.
    """
    name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    folder = rundir.make()
    with open(os.open(folder / f"{_UNFINISHED}{name}", flags, 0o600), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(_packed(flight))
        file.flush()
        try:
            (folder / f"{_UNFINISHED}{name}").replace(folder / name)  # whole and held, before anybody finds it
            yield
        finally:
            rundir.remove(name)


def in_flight() -> bool:
    """Whether any change of this network namespace is on record."""
    return bool(rundir.names(_PREFIX))


def left_behind() -> list[tuple[str, Flight | None]]:
    """The flights of processes that died in this network namespace, by name; None for what cannot be read."""
    if not rundir.exists():
        return []
    found: list[tuple[str, Flight | None]] = []
    for name in rundir.names(_PREFIX):
        content = _unheld(name)
        if content is None:
            continue
        try:
            found.append((name, _unpacked(content)))
        except (ValueError, KeyError, TypeError, EOFError):
            found.append((name, None))
    return found


def sweep() -> None:
    """Remove what was left half written: nothing had been changed by then. The caller has the lock."""
    for name in rundir.names(_UNFINISHED):
        if _unheld(name) is not None:
            rundir.remove(name)


def forget(name: str) -> None:
    """Remove what was left behind."""
    rundir.remove(name)


def _unheld(name: str) -> bytes | None:
    """What is in a file; None if its writer lives, or has just removed it."""
    try:
        with open(rundir.path(name), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return file.read()
    except (FileNotFoundError, BlockingIOError):
        return None


def _packed(flight: Flight) -> bytes:
    """One line of JSON, then the entries of all tables."""
    head = {
        "tables": [
            {
                "name": image.name, "family": image.family.value, "size": len(image.entries), "number": image.number,
                "valid_hooks": image.valid_hooks, "hook_entries": image.hook_entries, "underflows": image.underflows,
            }
            for image in flight.before
        ],
        "together": flight.together,
        "holds": [[family.value, *key] for family, key in flight.holds],
    }  # fmt: skip
    return json.dumps(head).encode("ascii") + b"\n" + b"".join(image.entries for image in flight.before)


def _unpacked(content: bytes) -> Flight:
    line, _, rest = content.partition(b"\n")
    head = json.loads(line)
    images, at = [], 0
    for table in head["tables"]:
        entries = rest[at : at + table["size"]]
        if len(entries) != table["size"]:
            raise EOFError
        at += table["size"]
        images.append(
            Image(
                table["name"], Family(table["family"]), entries, table["number"], table["valid_hooks"],
                tuple(table["hook_entries"]), tuple(table["underflows"]),
            )
        )  # fmt: skip
    holds = tuple((Family(family), (kind, name)) for family, kind, name in head["holds"])
    return Flight(tuple(images), holds, bool(head["together"]))


def tables_of(images: Sequence[Image]) -> str:
    """The names of tables, for people."""
    return ", ".join(f"{image.family} {image.name}" for image in images)
