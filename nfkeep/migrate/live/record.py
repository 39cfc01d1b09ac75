"""What is known of a host's move on disk: how far it is, what was there before, when each step was done.

One folder under /var/lib/nfkeep, mode 0700, for each network namespace: `record.json`, written whole or not at all,
and beside it the rules, sets and nft tables as they were. Everything is on the disk before the first rule changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.keep import rundir
from nfkeep.migrate.live import durable
from nfkeep.migrate.live.commands import held
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT = "/var/lib/nfkeep"
VARIABLE = "NFKEEP_STATE_DIRECTORY"
"""The environment variable that names another directory."""

HOST = "host"
"""The folder of the host's own network namespace."""

APPLYING, APPLIED, CONFIRMED, ROLLED_BACK = "applying", "applied", "confirmed", "rolled back"
FILES = {Family.IPV4: "ipv4.rules", Family.IPV6: "ipv6.rules"}
IPSETS = "ipset.save"
"""What was there before, as `kept` knows it: iptables-save text by family, and what `ipset save` printed."""

_NAME, _LOCK, _WAKE = "record.json", "lock", "wake"

_FIRST_INODE = "4026531833"
"""Of the first network namespace, NET_NS_INIT_INO (linux/nsfs.h), since Linux 6.18; no other has ever had it."""
_ONLY_IN_FIRST = Path("/proc/sys/net/core/netdev_budget")
"""A setting of net_core_table (net/core/sysctl_net_core.c): the kernel shows it in the first network namespace only."""


@attrs.frozen(slots=True)
class Record:
    """How far the move is.

    `state`: one of the constants above. `legacy`: the tables of iptables that are put out of action; `nft`: those that
    are made. `steps`: seconds since 1970 and what was done then. `deadline`: when, in seconds of the monotonic clock,
    it is undone unless it was confirmed; `boot` tells that clock from the next boot's.

    `copies`: those in `legacy` that are only there since the move, because the rules were in tables of iptables-nft;
    `replaced`: those tables as they are from before it, (family, name, handle). `finished`: nothing of a
    confirmation is left to do.
    """

    state: str
    legacy: tuple[tuple[str, Family], ...] = ()
    nft: tuple[tuple[str, str], ...] = ()
    steps: tuple[tuple[float, str], ...] = ()
    deadline: float | None = None
    boot: str = attrs.field(factory=lambda: boot())
    copies: tuple[tuple[str, Family], ...] = ()
    replaced: tuple[tuple[str, str, int], ...] = ()
    finished: bool = False

    def stepped(self, what: str, **changes: Any) -> Record:
        """The record after another step."""
        return attrs.evolve(self, steps=(*self.steps, (time.time(), what)), **changes)


def boot() -> str:
    """What tells this boot of the kernel from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def folder() -> Path:
    """The folder of this network namespace; makes nothing. The host's own is `host`, through every boot."""
    name = rundir.namespace()
    return Path(os.environ.get(VARIABLE) or DEFAULT) / "migration" / (HOST if _is_first(name) else name)


def _is_first(name: str) -> bool:
    """Whether a network namespace, named as `rundir.namespace` does it, is that of the host itself.

    Not by comparing it with that of process 1: to look at that one takes CAP_SYS_PTRACE.
    """
    _, inode, *cookie = name.split("-")
    if cookie:  # 1 until Linux 6.18; from then on namespaces of all kinds share these numbers
        return inode == _FIRST_INODE or cookie == ["1"]
    return _ONLY_IN_FIRST.exists()


@contextlib.contextmanager
def locked(*, wait: bool = True) -> Iterator[None]:
    """Be the only one who moves this host, inside the block. Raises NfkeepError if another is, unless to `wait`.

    A process that is killed here is followed when what it has run, such as nft, has ended.
    """
    place = _made(folder())
    with open(os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NfkeepError("another nfkeep-migrate is at work here; `nfkeep-migrate status` tells") from None
        held.add(file.fileno())
        try:
            yield
        finally:
            held.discard(file.fileno())


def load() -> Record | None:
    """The record of this network namespace, if there is one. Raises NfkeepError for one that cannot be read."""
    try:
        text = (folder() / _NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except PermissionError:
        raise PermissionDeniedError(f"reading {folder() / _NAME}", "root") from None
    try:
        found = json.loads(text)
        return Record(
            found["state"],
            tuple((table, Family[family]) for table, family in found["legacy"]),
            tuple((family, table) for family, table in found["nft"]),
            tuple((seconds, what) for seconds, what in found["steps"]),
            found["deadline"],
            found["boot"],
            tuple((table, Family[family]) for table, family in found["copies"]),
            tuple((family, table, handle) for family, table, handle in found["replaced"]),
            found.get("finished", False),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NfkeepError(
            f"{folder() / _NAME} is damaged ({error}), so that it is not known how far the move is; what was there "
            "before is beside it. Once the rules that shall be in force are, remove it"
        ) from None


def own_tables(record: Record | None, there: Mapping[tuple[str, str], int]) -> set[tuple[str, str]]:
    """Those of nft's tables that the move has made, not somebody before it or after: `there` tells their handles."""
    if record is None or record.state == ROLLED_BACK:
        return set()
    now = record.boot == boot()
    if not now and record.state != CONFIRMED:  # what is of no boot script is gone
        return set()
    before = set(record.replaced) if now else set()
    return {each for each in record.nft if each in there and (*each, there[each]) not in before}


def save(record: Record) -> None:
    """Write the record; when this returns it is on the disk."""
    content = attrs.asdict(record)
    content["legacy"] = [(table, family.name) for table, family in record.legacy]
    content["copies"] = [(table, family.name) for table, family in record.copies]
    durable.write(folder() / _NAME, json.dumps(content, indent=2) + "\n")


def begin(before: Mapping[str, str]) -> None:
    """Put what was there before on the disk, by file name, in the place of what an earlier move left."""
    place = folder()
    if place.exists():
        for each in place.iterdir():
            if each.name not in (_LOCK, _WAKE):
                each.unlink()
    for name, text in before.items():
        durable.write(_made(place) / name, text)


def keep(name: str, text: str) -> None:
    """Put something more on the disk, under this name, until the next move begins."""
    durable.write(_made(folder()) / name, text)


def drop(name: str) -> None:
    """Remove what was put on the disk under this name."""
    (folder() / name).unlink(missing_ok=True)


def kept(name: str) -> str:
    """What was put on the disk under this name; "" if nothing was."""
    try:
        return (folder() / name).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def wake_path() -> Path:
    """The FIFO by which whoever waits for the deadline is told that something has changed."""
    place = _made(folder()) / _WAKE
    with contextlib.suppress(FileExistsError):
        os.mkfifo(place, 0o600)
    return place


def wake() -> None:
    """Tell whoever waits; nobody does, if nobody reads the FIFO."""
    with contextlib.suppress(OSError):
        number = os.open(wake_path(), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(number, b"\n")
        finally:
            os.close(number)


def awaited() -> bool:
    """Whether somebody waits for the deadline: has the FIFO open to read."""
    try:
        os.close(os.open(folder() / _WAKE, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO: nobody; ENOENT: nobody ever has
        return False
    return True


def forget() -> None:
    """Remove everything of this network namespace's move."""
    import shutil  # which loads compressors

    shutil.rmtree(folder(), ignore_errors=True)


def _made(place: Path) -> Path:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError:
        raise PermissionDeniedError(f"making the directory {place}", "root") from None
    except OSError as error:
        raise NfkeepError(
            f"the directory {place} cannot be made: {error.strerror}; the environment variable {VARIABLE} names another"
        ) from None
    return place
