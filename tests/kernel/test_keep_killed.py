"""SIGKILL at any moment of a change: old rules or new ones, an open gate, and no flow dead."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from limited import LIMIT, NFKEEP, Service, Shape
from rounds import rounds

from nfkeep import LockTimeoutError
from nfkeep.testing import living, wait_until
from nfkeep.xtables.lock import XtablesLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kernel

SHAPE = Shape("NAT", chain="FORWARD", nat=True, condition="-i cli0")

#: Rules that make a flow without SEEN_REPLY suffer: what is NEW and no SYN is refused with a reset.
STRICT = [
    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    f"-A FORWARD {SHAPE.rule(8730)}",
    "-A FORWARD -p tcp --syn --dport 8730 -j ACCEPT",
    "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
]

CHANGE = """
import sys, nfkeep
with nfkeep.transaction() as tx:
    tx.append("FORWARD", "-s 192.0.2.1 -j DROP")
    print("ready", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def rules(service: Service) -> list[str]:
    return service.gateway.run("iptables-legacy -S FORWARD").stdout.splitlines()


def start_change(service: Service) -> subprocess.Popen[str]:
    """A process with a transaction open, which it commits when it is told to."""
    process = service.gateway.popen([sys.executable, "-c", CHANGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def commit(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_killed_at_fifty_random_moments(start_service: Callable[..., Service]) -> None:
    """Fifty changes, each killed somewhere between its start and its end."""
    seed = random.randrange(2**32)
    print("seed", seed)  # pytest shows it with a failure
    chance = random.Random(seed)
    service = start_service(SHAPE, rules=STRICT)
    old = service.dial()
    assert len(old) == LIMIT

    with start_change(service) as process:
        began = time.monotonic()
        commit(process)
        assert process.wait(20) == 0
    whole = time.monotonic() - began
    service.plain(f"-D FORWARD {SHAPE.unrelated}")

    seen = set()
    before = rules(service)
    after = [*before, f"-A FORWARD {SHAPE.unrelated}".replace("192.0.2.1", "192.0.2.1/32")]
    for number in range(50):
        if number >= rounds(50) and seen == {False, True}:
            break
        with start_change(service) as process:
            moment = time.monotonic() + chance.uniform(0, whole)
            commit(process)
            while time.monotonic() < moment:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        now = rules(service)
        assert now in (before, after)
        seen.add(now == after)
        # The guardian that completes the batch may outlive the process by a moment; the gate goes with it.
        assert wait_until(lambda: service.gateway.run("nft list tables").stdout == "")
        assert wait_until(lambda: "nfkeep" not in service.gateway.run("ip -br link").stdout)
        assert len(living(old)) == LIMIT
        if now == after:
            service.plain(f"-D FORWARD {SHAPE.unrelated}")
    assert seen == {False, True}, f"all kills came on one side of the replace (a change takes {whole:.3f} s)"
    assert service.server.resets == 0


def test_interrupted_it_finishes_first(start_service: Callable[..., Service]) -> None:
    """Ctrl-C during a change takes effect behind it: the count is back, the rule is in."""
    service = start_service(SHAPE)
    old = service.dial()
    with start_change(service) as process:
        commit(process)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert len(living(old)) == LIMIT
    if rules(service)[-1].startswith("-A FORWARD -s 192.0.2.1"):
        assert service.dial() == []


def test_a_killed_command_leaves_nothing_behind(start_service: Callable[..., Service], tmp_path: Path) -> None:
    """`nfkeep iptables` killed while iptables runs: iptables finishes under the lock, and no file stays."""
    service = start_service(SHAPE)
    fifo, folder = tmp_path / "go", tmp_path / "tmp"
    os.mkfifo(fifo)
    folder.mkdir()
    slow = tmp_path / "iptables-legacy"
    slow.write_text(f'#!/bin/sh\nread line < {fifo}\nexec {shutil.which("iptables-legacy")} "$@"\n')
    slow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    with service.gateway.popen([*NFKEEP, "iptables", "-A", "FORWARD", "-s", "192.0.2.1"], env=environment) as process:
        go = os.open(fifo, os.O_WRONLY)  # opens when the other side does: iptables is about to run
        process.kill()
        process.wait(20)
        with pytest.raises(LockTimeoutError), XtablesLock(0.05):
            pass
        os.write(go, b"\n")
        os.close(go)
        with XtablesLock(20):
            pass  # free when iptables has finished
    assert rules(service)[-1] == "-A FORWARD -s 192.0.2.1/32"
    assert list(folder.iterdir()) == []
