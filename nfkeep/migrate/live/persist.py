"""What is in force after the next boot: the rules of nft, from the file that its service loads; none of iptables."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import time
from pathlib import Path

from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.migrate.live import durable, record
from nfkeep.migrate.live.commands import run_nft, run_tool

CONFIGURATION = Path("/etc/nftables.conf")
"""What nftables.service loads, on Debian and Ubuntu."""

_SYSTEMD = Path("/run/systemd/system")
_SERVICE = "nftables.service"
_OTHERS = ("netfilter-persistent.service", "iptables-persistent.service", "iptables.service", "ip6tables.service")
_TABLE = re.compile(r"^table (\w+ \S+) \{.*?^\}\n", re.MULTILINE | re.DOTALL)
_OWNED = re.compile(r"\n\tflags [^\n]*\bowner\b")
_ELEMENTS = re.compile(r'\n\t+elements = \{(?:[^"}]|"[^"]*")*\}')
_QUOTED = re.compile(r'"[^"]*"')

_BEFORE, _WRITTEN = "boot.json", "written"
_MODE = 0o755

_HEAD = """#!/usr/sbin/nft -f
# What was in force when the move from iptables was confirmed, written by nfkeep-migrate.
flush ruleset

"""


def check(path: Path) -> None:
    """Raise NfkeepError where `write` could not write, before anything is confirmed."""
    path = path.resolve()
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise NfkeepError(f"{path} cannot be written: its folder is missing, or not for us to write in")


def ruleset() -> tuple[str, list[str]]:
    """What nft has in force now, as a file that loads it, without what it has counted; and the tables left out of it.

    Those have an owner, a program that makes them itself, and that nobody else may make. Raises NfkeepError where nft
    would not take it.
    """
    left_out = []

    def kept(table: re.Match[str]) -> str:
        if _OWNED.search(table[0]) is None:
            return table[0]
        left_out.append(table[1])
        return ""

    listed = _TABLE.sub(kept, run_tool(["nft", "-s", "list", "ruleset"]))
    text = _HEAD + _ELEMENTS.sub(_without_connections, listed)
    try:
        run_nft(text, "-c")
    except NfkeepError as error:
        raise NfkeepError(
            "nft does not take its own rules as it lists them, so that no boot could load them; change what it says "
            f"here, or call confirm --no-config: {error}"
        ) from error
    return text, left_out


def _without_connections(elements: re.Match[str]) -> str:
    """The elements of a set, unless they count connections: of those the next boot has none yet."""
    return "" if " ct count " in _QUOTED.sub("", elements[0]) else elements[0]


def write(path: Path, text: str) -> list[str]:
    """Write what `ruleset` has told to a file, which keeps its mode; what was there is kept beside it.

    Returns what was done, as sentences. Raises NfkeepError, and leaves the file as it was.
    """
    done, named = [], path
    path = path.resolve()
    try:
        record.keep(_WRITTEN, f"{path}")
        if path.exists():
            before, mode = _content(path), _mode(path)
            backup = _backup(path, before)
            durable.write(backup, before, mode)
            done.append(f"What was in {path} is in {backup}.")
            durable.write(path, text, mode)
        else:
            durable.write(path, text, _MODE)
    except PermissionError:
        raise PermissionDeniedError(f"writing {path}", "root") from None
    except OSError as error:
        raise NfkeepError(f"{path} cannot be written: {error.strerror}") from None
    done.append(f"{named} has the rules of nft.")
    return done


def remember(path: Path) -> None:
    """Put on the disk what the next boot would load now, for `go_back`; not again before `forget`."""
    if record.kept(_BEFORE):
        return
    path = path.resolve()
    there = path.exists()
    before = {
        "path": str(path),
        "text": _content(path) if there else None,
        "mode": _mode(path) if there else _MODE,
        "enabled": _enabled(_SERVICE, *_OTHERS) if _SYSTEMD.is_dir() else [],
    }
    record.keep(_BEFORE, json.dumps(before))


def go_back() -> list[str]:
    """Have the next boot load what it would have loaded before; what was done, and what was not, as sentences.

    May be done again, until `forget`. At every moment of it the next boot has the rules of iptables, those of nft, or
    both.
    """
    done = []
    if text := record.kept(_BEFORE):
        before = json.loads(text)
        done += _services_as_before(before["enabled"])
        try:
            done += _file_as_before(Path(before["path"]), before["text"], before["mode"])
        except OSError as error:
            done.append(f"{before['path']} still has the rules of nft: {error.strerror}")
    elif (written := record.kept(_WRITTEN)) and _is_ours(Path(written)):
        done.append(f"{written} still has the rules of nft.")
    return done


def forget() -> None:
    """There is nothing to go back to any more."""
    for each in (_BEFORE, _WRITTEN):
        record.drop(each)


def _services_as_before(enabled: list[str]) -> list[str]:
    if not _SYSTEMD.is_dir():
        return ["Have the rules of iptables loaded at boot again, and those of nft no longer."]
    now = _enabled(_SERVICE, *_OTHERS)
    switches = [("enable", each) for each in enabled if each != _SERVICE and each not in now]
    if _SERVICE in now and _SERVICE not in enabled:
        switches.append(("disable", _SERVICE))
    os.sync()  # what an earlier try has switched may not be on the disk
    done = []
    for how, service in switches:
        try:
            _switch(how, service)
            done.append(f"{service} is {how}d again.")
        except NfkeepError as error:
            done.append(f"Do what could not be done here: systemctl {how} {service} ({error})")
    return done


def _file_as_before(path: Path, text: str | None, mode: int) -> list[str]:
    there = _content(path) if path.exists() else None
    if there == text:
        return []
    if there is not None and not there.startswith(_HEAD):
        return [f"{path} is not what was written there, and stays as it is."]
    if text is None:
        path.unlink(missing_ok=True)
        return [f"{path} is removed."]
    durable.write(path, text, mode)
    return [f"{path} is as it was."]


def switch_services() -> list[str]:
    """Have systemd load nft's rules when it boots, and no longer those of iptables; what was done, as sentences.

    Where systemd is not the first process, what is to be done is told instead.
    """
    if not _SYSTEMD.is_dir():
        return [f"Have {CONFIGURATION} loaded at boot (nft -f), and no rules of iptables any more."]
    _switch("enable", _SERVICE)
    done = [f"{_SERVICE} loads them at boot."]
    for each in _enabled(*_OTHERS):
        _switch("disable", each)
        done.append(f"{each} is disabled.")
    return done


def _enabled(*services: str) -> list[str]:
    found = []
    for each in services:
        # not all at once: it stops at the first that is not installed; nor the list of all, which takes too long
        with contextlib.suppress(NfkeepError):  # it fails for those that are not
            if run_tool(["systemctl", "is-enabled", each]).strip() == "enabled":
                found.append(each)
    return found


def _switch(how: str, service: str) -> None:
    """Enable or disable a service; when this returns that is on the disk, which systemctl does not see to."""
    run_tool(["systemctl", how, service])
    os.sync()


def _backup(path: Path, text: str) -> Path:
    """The place for what a file says: one that is free, or has it already."""
    name = f"{path.name}.before-{time.strftime('%Y-%m-%d')}"
    places = (path.with_name(f"{name}.{number}" if number > 1 else name) for number in itertools.count(1))
    return next(each for each in places if not each.exists() or _content(each) == text)


def _content(path: Path) -> str:
    return path.read_bytes().decode(errors="surrogateescape")  # with its own ends of lines


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return _content(path).startswith(_HEAD)
    return False
