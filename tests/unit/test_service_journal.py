"""What nfkeepd logs is one printable line each, whatever clients put into it, and a bounded number of them."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfkeep.service.journal import OneLine, Sparing, tell_systemd


def record(text: str, *values: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("nfkeep.service", level, __file__, 1, text, values, None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_a_line_is_a_line(text: str) -> None:
    """Line breaks, escape sequences and what else is not printable are shown, not obeyed."""
    line = OneLine(priority=False).format(record("list %s", text))
    assert line.startswith("nfkeepd: list ")
    assert line.isprintable()


def test_escapes() -> None:
    """It can still be read what was there."""
    assert OneLine(priority=False).format(record("x\n<0>y\x1b[2J\u2028ü")) == "nfkeepd: x\\n<0>y\\x1b[2J\\u2028ü"


def test_priorities_for_the_journal() -> None:
    """In the journal each line has its priority, and no name, which the journal knows."""
    levels = {logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
    for level, priority in levels.items():
        assert OneLine(priority=True).format(record("x", level=level)) == f"<{priority}>x"


def test_cannot_be_filled() -> None:
    """After a hundred lines of a sort the rest of them is left out, and the next one says how many that were."""
    sparing = Sparing()
    passed = sum(sparing.filter(record("no list %s", each)) for each in range(1000))
    assert 100 <= passed < 150
    assert sparing.filter(record("serving")), "another sort of line has room of its own"
    sparing._buckets.take = lambda *_: 0.0  # type: ignore[method-assign]  # some time later
    last = record("no list %s", "%d")
    assert sparing.filter(last)
    assert last.getMessage() == f"no list %d ({1000 - passed} lines like this left out)"


@pytest.mark.parametrize("abstract", [False, True])
def test_tells_systemd(tmp_path: Path, abstract: bool) -> None:
    """The state goes to the socket that systemd names, in the file system or not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"@nfkeepd-test-{os.getpid()}" if abstract else str(tmp_path / "n")
        heard.bind(name.replace("@", "\0", 1))
        heard.settimeout(10)
        tell_systemd("READY=1", {"NOTIFY_SOCKET": name})
        assert heard.recv(100) == b"READY=1"


def test_nobody_to_tell() -> None:
    """Without systemd, or with one that is not there, nothing happens."""
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1"}, {"NOTIFY_SOCKET": "/nowhere/n"}):
        tell_systemd("READY=1", environment)
