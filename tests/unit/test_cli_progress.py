"""What is said of long steps: to a terminal, and to a file."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from typing import TYPE_CHECKING

from nfkeep.cli import progress

if TYPE_CHECKING:
    import pytest


def all_of(terminal: int) -> str:
    """What was drawn on one whose other end is closed; it may come in pieces."""
    pieces = []
    with contextlib.suppress(OSError):  # EIO: that was all
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One for each step where it is no terminal, and nothing on stdout."""
    with progress.steps(2) as tell:
        tell("reading [rules]")
        tell("loading")
    assert capsys.readouterr() == ("", "nfkeep-migrate: reading [rules]\nnfkeep-migrate: loading\n")


def test_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar says what is being done and how much of it is done; it is gone in the end."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress.steps(2) as tell:
            tell("reading [rules]")
            tell("loading")
    drawn = all_of(ours)
    os.close(ours)
    assert "loading" in drawn
    assert "1/2" in drawn
    assert drawn.rstrip().endswith("\x1b[2K")
