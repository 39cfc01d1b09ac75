"""The record of a move on disk, and its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nfkeep.errors import NfkeepError
from nfkeep.keep import rundir
from nfkeep.migrate.live import record

if TYPE_CHECKING:
    from pathlib import Path

RUNNING = """
import sys
from nfkeep.migrate.live import record
from nfkeep.migrate.live.commands import run_tool
with record.locked():
    run_tool(["sh", "-c", "echo > $0; cat $1", *sys.argv[1:]])
"""


def test_held_by_what_a_killed_process_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was killed is followed when the program that he has run has ended: `nft -f` goes on for a while."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path))
    began, end = tmp_path / "began", tmp_path / "end"
    os.mkfifo(began)
    os.mkfifo(end)
    process = subprocess.Popen([sys.executable, "-c", RUNNING, began, end])
    began.read_bytes()
    process.kill()
    process.wait()
    with pytest.raises(NfkeepError, match="another nfkeep-migrate is at work"), record.locked(wait=False):
        pass
    end.write_bytes(b"")
    with record.locked():
        pass


def test_free_after_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(record.VARIABLE, str(tmp_path))
    for _ in range(2):
        with record.locked(wait=False):
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": "applied"}', '{"state": 1, "legacy": 2}'])
def test_damaged_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Nobody guesses how far the move is; the operator is told what to do."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path))
    record.keep("record.json", text)
    with pytest.raises(NfkeepError, match=r"record\.json is damaged .* remove it"):
        record.load()


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("net-4026531833-3", True),
        ("net-4026531833-7", True),
        ("net-4026532204-12", False),
        ("net-4026531840-1", True),
        ("net-4026532204-4097", False),
        ("net-4026532204-11", False),
    ],
    ids=["6.18", "6.19", "6.18, not the host", "5.14", "5.14, not the host", "a cookie that ends in 1"],
)
def test_the_host_is_known(monkeypatch: pytest.MonkeyPatch, name: str, host: bool) -> None:
    """By the inode and the cookie that only the first network namespace has."""
    monkeypatch.setattr(rundir, "namespace", lambda: name)
    assert record.folder().name == (record.HOST if host else name)
