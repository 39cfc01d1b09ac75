"""What is in flight: while tables are replaced and their state is put back, a file in the run directory says what they
were, and what those were about to become that change together, so that whoever comes after a crash can finish the
change or undo it, and takes nobody else's rules for it.

The writer holds a lock on the file; a file that nobody holds was left behind. After success nothing is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from nfkeep.keep import rundir
from nfkeep.keep.observe import StateKey
from nfkeep.model import Family
from nfkeep.xtables.image import Image

_PREFIX = "change-"
_UNFINISHED = "new-"
_UNREADABLE = (ValueError, KeyError, TypeError, EOFError)
_numbers = itertools.count(1)

Note: TypeAlias = Callable[[Callable[[], Image]], None]
"""Has to be told what the next table becomes, right before its replace. Raises NotWrittenError: that must not be."""


@attrs.frozen(slots=True)
class Flight:
    """A change that began and has not ended: its tables as they were, in the order in which they are replaced, and the
    states that are held for it, by family. `together`: all of the tables are to change, or none.

    `wanted`: what the first of the tables were about to become; the others were not replaced. Only of several that
    change together.
    """

    before: tuple[Image, ...]
    holds: tuple[tuple[Family, StateKey], ...]
    together: bool = True
    wanted: tuple[Image, ...] = ()


@contextlib.contextmanager
def written(flight: Flight) -> Iterator[Note]:
    """Have the flight on record inside the block. Left by an exception the change is over as well: it was put right.

    Only a process that dies leaves the record. Raises NotWrittenError.
    """
    # In the order of time; names of an earlier format, with a digit there, come before.
    name = f"{_PREFIX}at-{time.monotonic_ns():020}-{os.getpid()}-{next(_numbers)}"
    folder = rundir.make()
    with open(rundir.create(folder / f"{_UNFINISHED}{name}", _packed(flight), locked=True), "wb"):
        try:
            (folder / f"{_UNFINISHED}{name}").replace(folder / name)  # whole and held, before anybody finds it
            yield functools.partial(_note, folder / name) if flight.together and len(flight.before) > 1 else _ignore
        finally:
            rundir.remove(name)


def in_flight() -> bool:
    """Whether any change of this network namespace is on record."""
    return bool(rundir.names(_PREFIX))


def left_behind() -> list[tuple[str, Flight | None]]:
    """The flights of processes that died in this network namespace, by name; None for what cannot be read.

    The last one first: an earlier one may know an older state.
    """
    if not rundir.exists():
        return []
    found: list[tuple[str, Flight | None]] = []
    for name in reversed(rundir.names(_PREFIX)):
        content = _unheld(name)
        if content is None:
            continue
        try:
            found.append((name, _unpacked(content)))
        except _UNREADABLE:
            found.append((name, None))
    return found


def sweep() -> None:
    """Remove what was left half written: nothing had been changed by then. The caller has the lock."""
    for name in rundir.names(_UNFINISHED):
        if _unheld(name) is not None:
            rundir.remove(name)


def decide(name: str) -> None:
    """Note that nothing is left to undo of what was left behind: should recovery be cut off, too, it goes on there."""
    with contextlib.suppress(OSError):  # a full file system: then the next one looks at the tables again
        _append(rundir.path(name), _DECIDED)


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


def _note(record: Path, wanted: Callable[[], Image]) -> None:
    image = wanted()
    try:
        _append(record, _described({}, [image]))
    except OSError as error:
        raise rundir.NotWrittenError(record, error.strerror) from None


def _ignore(_: Callable[[], Image]) -> None:
    """A single table is never undone."""


def _append(record: Path, content: bytes) -> None:
    with open(os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW), "wb") as file:
        file.write(content)


def _packed(flight: Flight) -> bytes:
    """What is known from the beginning."""
    head = {"together": flight.together, "holds": [[family.value, *key] for family, key in flight.holds]}
    return _described(head, flight.before)


def _described(head: dict[str, Any], images: Sequence[Image]) -> bytes:
    """One line of JSON, then the entries of all tables."""
    tables = [
        {
            "name": image.name, "family": image.family.value, "size": len(image.entries), "number": image.number,
            "valid_hooks": image.valid_hooks, "hook_entries": image.hook_entries, "underflows": image.underflows,
        }
        for image in images
    ]  # fmt: skip
    line = json.dumps({"tables": tables, **head}).encode("ascii")
    return line + b"\n" + b"".join(image.entries for image in images)


def _unpacked(content: bytes) -> Flight:
    head, before, rest = _read(content)
    holds = tuple((Family(family), (kind, name)) for family, kind, name in head["holds"])
    flight = Flight(before, holds, bool(head["together"]))
    with contextlib.suppress(*_UNREADABLE):  # its writer died while writing this
        while rest:
            head, images, rest = _read(rest)
            if head.get("decided"):
                return attrs.evolve(flight, together=False)
            flight = attrs.evolve(flight, wanted=(*flight.wanted, *images))
    return flight


def _read(content: bytes) -> tuple[dict[str, Any], tuple[Image, ...], bytes]:
    """What is described at the beginning, and what is behind."""
    line, _, rest = content.partition(b"\n")
    head = json.loads(line)
    images = []
    for table in head["tables"]:
        entries, rest = rest[: table["size"]], rest[table["size"] :]
        if len(entries) != table["size"]:
            raise EOFError
        images.append(
            Image(
                table["name"], Family(table["family"]), entries, table["number"], table["valid_hooks"],
                tuple(table["hook_entries"]), tuple(table["underflows"]),
            )
        )  # fmt: skip
    return head, tuple(images), rest


_DECIDED = _described({"decided": True}, ())


def tables_of(images: Sequence[Image]) -> str:
    """The names of tables, for people."""
    return ", ".join(f"{image.family} {image.name}" for image in images)
