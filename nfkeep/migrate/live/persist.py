"""What is in force after the next boot: the rules of nft, from the file that its service loads; none of iptables."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from nfkeep.errors import NfkeepError, PermissionDeniedError
from nfkeep.migrate.live import durable
from nfkeep.migrate.live.commands import run_nft, run_tool

CONFIGURATION = Path("/etc/nftables.conf")
"""What nftables.service loads, on Debian and Ubuntu."""

_SYSTEMD = Path("/run/systemd/system")
_SERVICE = "nftables.service"
_OTHERS = ("netfilter-persistent.service", "iptables-persistent.service", "iptables.service", "ip6tables.service")
_CONNECTIONS = re.compile(r"\n\t+elements = \{[^}]* ct count [^}]*\}")
"""The elements of sets that count connections: of the next boot's there are none yet."""

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


def switch_services() -> list[str]:
    """Have systemd load nft's rules when it boots, and no longer those of iptables; what was done, as sentences.

    Where systemd is not the first process, what is to be done is told instead.
    """
    if not _SYSTEMD.is_dir():
        return [f"Have {CONFIGURATION} loaded at boot (nft -f), and no rules of iptables any more."]
    run_tool(["systemctl", "enable", _SERVICE])
    done = [f"{_SERVICE} loads them at boot."]
    listed = run_tool(["systemctl", "list-unit-files", "--no-legend", "--no-pager", "--state=enabled"])
    enabled = {line.split()[0] for line in listed.splitlines() if line.strip()}
    for each in _OTHERS:
        if each in enabled:
            run_tool(["systemctl", "disable", each])
            done.append(f"{each} is disabled.")
    return done


def _backup(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-{time.strftime('%Y-%m-%d')}")
