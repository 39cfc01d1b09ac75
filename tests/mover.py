"""`nfkeep-migrate` in a namespace, and what it has left there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs

from nfkeep.migrate.live import record

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

MIGRATE = [sys.executable, "-c", "import sys; from nfkeep.cli.migrate import main; sys.exit(main())"]
NEW, OLD = {"iptables": False, "nft": True}, {"iptables": True, "nft": False}
SYSTEMCTL = """#!/bin/sh
folder={folder}
case $1 in
is-enabled) [ -e $folder/$2 ] && echo enabled ;;
enable) touch $folder/$2 ;;
disable) rm $folder/$2 ;;
esac
"""
"""Stands for systemd: a service is a file in the folder while it is enabled."""


@attrs.frozen
class Mover:
    """`nfkeep-migrate` in a namespace."""

    namespace: Namespace

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.namespace.run([*MIGRATE, *arguments], check=check, env=dict(os.environ))

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a run of it with -9, and await the end of what it has run itself."""
        process.kill()
        process.wait()
        with self.namespace, record.locked():
            pass

    def force(self) -> dict[str, bool]:
        """Which rules are in force."""
        found = self.status()
        return {name: found[name] for name in NEW}

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self("status", "--json").stdout)
        return found

    def nft(self) -> str:
        return self.namespace.run("nft list ruleset").stdout

    def legacy(self, variant: str = "legacy", *options: str) -> str:
        commands = ([f"{name}-{variant}-save", *options] for name in ("iptables", "ip6tables"))
        return "".join(self.namespace.run(command).stdout for command in commands)


def without_counters(text: str) -> list[str]:
    """What iptables-save prints, without times and counters of policies."""
    return [line.partition(" [")[0] if line[:1] == ":" else line for line in text.splitlines() if line[:1] != "#"]
