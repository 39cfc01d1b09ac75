"""What is in force after the next boot: the rules of nft, from the file that its service loads; none of iptables."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
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
_CONNECTIONS = re.compile(r"\n\t+elements = \{[^}]* ct count [^}]*\}")
"""The elements of sets that count connections: of the next boot's there are none yet."""

_BEFORE = "boot.json"

_HEAD = """#!/usr/sbin/nft -f
# What was in force when the move from iptables was confirmed, written by nfkeep-migrate.
flush ruleset

"""


def check(path: Path) -> None:
    """Raise NfkeepError where `write` could not write, before anything is confirmed."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise NfkeepError(f"{path} cannot be written: its folder is missing, or not for us to write in")


def write(path: Path = CONFIGURATION) -> list[str]:
    """Write all that nft has in force now to `path`, without what it has counted; what was there is kept beside it.

    Returns what was done, as sentences. Raises NfkeepError, and leaves the file as it was, if nft would not take it.
    """
    done = []
    text = _HEAD + _CONNECTIONS.sub("", run_tool(["nft", "-s", "list", "ruleset"]))
    run_nft(text, "-c")
    try:
        if path.exists() and not (backup := _backup(path)).exists():
            shutil.copy2(path, backup)
            done.append(f"What was in {path} is in {backup}.")
        durable.write(path, text, 0o755)
    except PermissionError:
        raise PermissionDeniedError(f"writing {path}", "root") from None
    except OSError as error:
        raise NfkeepError(f"{path} cannot be written: {error.strerror}") from None
    done.append(f"{path} has the rules of nft.")
    return done


def remember(path: Path = CONFIGURATION) -> None:
    """Put on the disk what the next boot would load now, for `go_back`."""
    if is_unfinished():
        return
    before = {
        "path": str(path),
        "text": path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else None,
        "enabled": _enabled(_SERVICE, *_OTHERS) if _SYSTEMD.is_dir() else [],
        "finished": False,
    }
    record.keep(_BEFORE, json.dumps(before))


def is_unfinished() -> bool:
    """Whether something stopped the change of what the next boot loads between `remember` and `finish`."""
    text = record.kept(_BEFORE)
    return bool(text) and not json.loads(text)["finished"]


def finish() -> None:
    """Put on the disk that the next boot loads the rules of nft."""
    record.keep(_BEFORE, json.dumps({**json.loads(record.kept(_BEFORE)), "finished": True}))


def go_back() -> list[str]:
    """Have the next boot load what it would have loaded before; what was done, and what was not, as sentences.

    Does so once. At every moment of it the next boot has the rules of iptables, those of nft, or both.
    """
    text = record.kept(_BEFORE)
    if not text:
        return []
    before = json.loads(text)
    done = _services_as_before(before["enabled"])
    try:
        done += _file_as_before(Path(before["path"]), before["text"])
    except OSError as error:
        done.append(f"{before['path']} still has the rules of nft: {error.strerror}")
    record.drop(_BEFORE)
    return done


def _services_as_before(enabled: list[str]) -> list[str]:
    if not _SYSTEMD.is_dir():
        return ["Have the rules of iptables loaded at boot again, and those of nft no longer."]
    switches = [("enable", each) for each in enabled if each != _SERVICE]
    if _SERVICE not in enabled:
        switches.append(("disable", _SERVICE))
    done = []
    for how, service in switches:
        try:
            _switch(how, service)
            done.append(f"{service} is {how}d again.")
        except NfkeepError as error:
            done.append(f"Do what could not be done here: systemctl {how} {service} ({error})")
    return done


def _file_as_before(path: Path, text: str | None) -> list[str]:
    if path.exists() and not path.read_text(encoding="utf-8", errors="surrogateescape").startswith(_HEAD):
        return [f"{path} is not what was written there, and stays as it is."]
    if text is None:
        path.unlink(missing_ok=True)
        return [f"{path} is removed."]
    durable.write(path, text, 0o755)
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


def _backup(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-{time.strftime('%Y-%m-%d')}")
