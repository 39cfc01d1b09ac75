"""What all tests share: the public fixtures, an xtables lock for the session, and proof that the host is left alone.

Every test works in network namespaces; the check at the end compares what the host had before with what it has after.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["nfkeep.testing.fixtures"]

_SESSION = "NFKEEP_TEST_SESSION"  # in the environment of every process that a test starts


def pytest_configure() -> None:
    """What a shell runs in the background ignores Ctrl-C, and so would what tests start that press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def xtables_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The lock file of iptables is shared by all namespaces; each session takes one of its own, and a run directory."""
    folder = tmp_path_factory.mktemp("lock")
    path = folder / "xtables.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTABLES_LOCKFILE", str(path))
        patch.setenv("NFKEEP_RUN_DIRECTORY", str(folder / "run"))
        patch.setenv("NFKEEP_STATE_DIRECTORY", str(folder / "state"))
        yield path


@pytest.fixture(scope="session", autouse=True)
def host_left_alone(xtables_lock: Path) -> Iterator[None]:
    """No namespace, device, nft table, legacy table or process is left on the host when the tests are over."""
    marker = f"{_SESSION}={uuid.uuid4()}"
    before = _host()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*marker.split("="))
        yield
    left = {what: new for what, seen in _host().items() if (new := sorted(seen - before[what]))}
    if processes := _processes_with(marker):
        left["processes"] = processes
    assert left == {}, "the tests left this on the host"


def _host() -> dict[str, set[str]]:
    legacy = [Path("/proc/thread-self/net", name) for name in ("ip_tables_names", "ip6_tables_names")]
    return {
        "namespaces": _lines("ip", "netns", "list"),
        "devices": {line.split()[0].split("@")[0] for line in _lines("ip", "-br", "link")},
        "nft tables": _lines("nft", "list", "tables") if os.geteuid() == 0 else set(),
        "legacy tables": {
            f"{path.name}: {name}" for path in legacy if os.access(path, os.R_OK) for name in path.read_text().split()
        },
    }


def _lines(*command: str) -> set[str]:
    if shutil.which(command[0]) is None:
        return set()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines())


def _processes_with(marker: str) -> list[str]:
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found
