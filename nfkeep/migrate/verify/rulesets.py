"""Rules into the hosts: iptables-save text through iptables-legacy-restore, a script through nft, at the same time."""

from __future__ import annotations

import functools
import os
import subprocess
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError
from nfkeep.model import Family

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

_RESTORE = {Family.IPV4: "iptables-legacy-restore", Family.IPV6: "ip6tables-legacy-restore"}
BASE_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


class Refused(NfkeepError):
    """A host does not take its rules; `side` is "iptables" or "nft", `reason` the tool's own words."""

    def __init__(self, side: str, reason: str) -> None:
        self.side = side
        self.reason = reason
        super().__init__(f"{side} refuses: {reason}")


class Loading:
    """A tool that is loading rules; `wait` for it."""

    def __init__(self, side: str, namespace: Namespace, command: list[str], text: str) -> None:
        self._side = side
        pipe = subprocess.PIPE
        self._process = namespace.popen(
            command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, env={**os.environ, **_own_lock()}
        )
        self._text = text
        if len(text) < 4096:  # fits into the pipe: the tool can begin while the other one is started
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(text)
                self._process.stdin.close()
            except BrokenPipeError:  # it gave up at once, and says why
                pass
            self._process.stdin, self._text = None, ""

    def wait(self) -> None:
        """Returns when the rules are in place. Raises Refused."""
        with self._process:
            _, said = self._process.communicate(self._text or None, timeout=120)
        if self._process.returncode:
            raise Refused(self._side, " ".join(said.split()))


@functools.cache
def _own_lock() -> dict[str, str]:
    """A lock that the host's own iptables does not wait for: it says nothing about these namespaces."""
    number = os.memfd_create("xtables.lock")
    return {"XTABLES_LOCKFILE": f"/proc/{os.getpid()}/fd/{number}"}


def tables_of(text: str) -> set[str]:
    """The names of the tables in iptables-save text."""
    return {line.strip()[1:].strip() for line in text.splitlines() if line.strip().startswith("*")}


def load_legacy(namespace: Namespace, family: Family, text: str, leftover: set[str]) -> Loading:
    """Begin to load iptables-save text; the tables in `leftover` are emptied first.

    Also those that are in the text: a base chain that it does not name would keep its policy.
    """
    parts = []
    for table in sorted(leftover):
        chains = "".join(f":{chain} ACCEPT [0:0]\n" for chain in BASE_CHAINS[table])
        parts.append(f"*{table}\n{chains}COMMIT\n")
    parts.append(text if text.endswith("\n") else text + "\n")
    command = [_RESTORE[family], "-w", "60"] + (["-c"] if "\n[" in text or text.startswith("[") else [])
    return Loading("iptables", namespace, command, "".join(parts))


def saved(namespace: Namespace, family: Family) -> list[str]:
    """What iptables-save prints, with counters, line by line; without its comments."""
    output = namespace.run([_RESTORE[family].replace("restore", "save"), "-c"]).stdout
    return [line for line in output.splitlines() if line[:1] != "#"]


def load_nft(namespace: Namespace, script: str, observer: str) -> Loading:
    """Begin to load a script in the place of all that is there; the observing table comes behind it."""
    return Loading("nft", namespace, ["nft", "-f", "-"], f"flush ruleset\n{script}\n{observer}")
