"""What nfkeepd says to the system: lines for the journal, and to systemd that it is ready.

A line is one line whatever clients put into their requests, and they cannot fill the journal with it either.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping

from nfkeep.service.limits import Buckets, Rate

_RATE = Rate(10, 100)  # lines
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4}  # of syslog(3)


class OneLine(logging.Formatter):
    """Formats records as a line of printable characters; all others are escaped.

    With `priority` the line begins as sd-daemon(3) has it, which the journal takes off again.
    """

    def __init__(self, *, priority: bool) -> None:
        super().__init__("%(message)s" if priority else "nfkeepd: %(message)s")
        self._priority = priority

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = super().format(record)
        line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
        level = (
            3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        )  # as in syslog(3)
        return f"<{level}>{line}" if self._priority else line


class Sparing(logging.Filter):
    """Of each sort of line, leaves out what goes beyond 10 a second in the long run, and says how many that were.

    Lines are of one sort if they differ only in what was put into them: none that clients cause crowd out another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buckets = Buckets(_RATE)
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether there is room for this one."""
        sort = str(record.msg)
        if self._buckets.take(sort, time.monotonic()):
            self._left_out[sort] += 1
            return False
        left_out = self._left_out.pop(sort, 0)
        if left_out:
            record.msg, record.args = "%s (%d lines like this left out)", (record.getMessage(), left_out)
        return True


def log_to_stderr(environment: Mapping[str, str]) -> None:
    """Have the loggers of nfkeep and of asyncio write to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(priority="JOURNAL_STREAM" in environment))
    handler.addFilter(Sparing())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def tell_systemd(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """sd_notify(3), where systemd has asked for it; that it cannot be told is no reason to fail."""
    path = environment.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(path.replace("@", "\0", 1) if path[0] == "@" else path)
            sock.send(state.encode())
    except OSError as error:
        logging.getLogger("nfkeep.service").warning("telling systemd %s: %s", state, error.strerror)
