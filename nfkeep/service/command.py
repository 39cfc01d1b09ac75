"""The command nfkeepd: its arguments, its signals, and its exit status.

0 is stopped, or with --check a valid configuration; 1 is failed, with one line on stderr; 2 is wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import nfkeep
from nfkeep import NfkeepError
from nfkeep.service import listening
from nfkeep.service.config import Config
from nfkeep.service.config_file import load
from nfkeep.service.journal import log_to_stderr, tell_systemd
from nfkeep.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

_SWITCH_SECONDS = 0.0005  # how long a thread that lists bans may hold up the one that bans

_log = logging.getLogger("nfkeep.service")


def run(arguments: Sequence[str] | None = None) -> int:
    """The command, with these arguments; the exit status."""
    parser = argparse.ArgumentParser(
        prog="nfkeepd",
        description="Let unprivileged programs ban in the lists that they are given, over a unix socket.",
    )
    parser.add_argument(
        "--config", metavar="FILE", default="/etc/nfkeep/nfkeepd.conf", help="what to serve to whom (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="read the configuration, say what is wrong, and exit")
    parser.add_argument("--version", action="version", version=f"nfkeepd {nfkeep.__version__}")
    given = parser.parse_args(arguments)
    log_to_stderr(os.environ)
    try:
        config = load(given.config)
        if not given.check:
            asyncio.run(_serve(given.config, config))
    except (NfkeepError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


async def _serve(file: str, config: Config) -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    listener = listening.passed(os.environ) or listening.make(config.socket, config.group)
    try:
        server = Server(config, listener)
    except BaseException:
        listener.close()
        raise
    loop.add_signal_handler(signal.SIGHUP, _reload, server, file)
    _log.info("serving %s on %s", ", ".join(each.name for each in config.lists), listener.path)
    tell_systemd("READY=1")
    await stopping.wait()
    tell_systemd("STOPPING=1")
    await server.stop()
    _log.info("stopped; all bans stay in force")


def _reload(server: Server, file: str) -> None:
    tell_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        server.reload(load(file))
    except (NfkeepError, OSError) as error:
        _log.error("the configuration stays as it was: %s", error)
    else:
        _log.info("the configuration was read again")
    tell_systemd("READY=1")


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    _log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
