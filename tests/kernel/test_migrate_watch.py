"""Whoever waits for the confirmation of a move: for it alone, from wherever it is started, whatever is in its way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from mover import MIGRATE, NEW, OLD, Mover

from nfkeep import NfkeepError
from nfkeep.migrate.live import record, watch
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host with one rule."""
    namespace.run("iptables-legacy -A INPUT -s 192.0.2.1 -j DROP")
    return Mover(namespace)


def awaited(mover: Mover) -> bool:
    with mover.namespace:
        return record.awaited()


def test_an_apply_that_is_interrupted_takes_its_watch_along(mover: Mover) -> None:
    """Or else the next move would be undone by it."""
    words = [*MIGRATE, "apply", "--confirm", "300"]
    process = mover.namespace.popen(words, env=dict(os.environ), stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert any("loading nft's rules" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    assert process.wait() == 130
    assert wait_until(lambda: not awaited(mover))


def test_a_watch_leaves_another_move_alone(mover: Mover) -> None:
    """It ends where the record is that of a move which was begun later, of which nobody has told it."""
    mover("apply", "--confirm", "2")
    with mover.namespace, record.locked():
        found = record.load()
        assert found is not None
        record.save(attrs.evolve(found, steps=((time.time(), "begun"), *found.steps), deadline=None))
    assert awaited(mover)
    assert wait_until(lambda: not awaited(mover), timeout=20.0)
    assert mover.force() == NEW


def test_a_watch_without_a_move(mover: Mover) -> None:
    """It does not say that it waits where it finds no record."""
    with mover.namespace, pytest.raises(NfkeepError, match="the watch could not be started"):
        watch.start(300.0, "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The state directory on a disk of its own, with little room."""
    place = tmp_path / "state"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk(mover: Mover, small_disk: Path) -> None:
    """Where neither the record nor the log can be written, the watch tries on until they can."""
    mover("apply", "--confirm", "3")
    filler = small_disk / "filler"
    full = subprocess.run(["dd", "if=/dev/zero", f"of={filler}"], capture_output=True, text=True, check=False)
    assert "No space left" in full.stderr
    with mover.namespace, (record.folder() / "watch.log").open("ab", buffering=0) as log:
        while log.tell() % 4096:  # its last page has room yet
            log.write(b"\n")
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)
    assert mover.status()["state"] == "applied"
    filler.unlink()
    assert wait_until(lambda: mover.status()["state"] == "rolled back", timeout=20.0)


def test_a_relative_state_directory(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch works elsewhere, and finds the same record."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NFKEEP_STATE_DIRECTORY", "state")
    mover("apply", "--confirm", "1")
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)


def test_a_probe_is_tried_as_it_is_run_later(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same PATH, though not in this directory, nor with variables that go with the session."""
    probe = tmp_path / "reachable"
    probe.write_text(f'#!/bin/sh\n[ -z "$OF_THE_SESSION" ] && [ "$PWD" = / ] && [ -e {tmp_path}/yes ]\n')
    probe.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_SESSION", "yes")
    (tmp_path / "yes").touch()
    for words in ("./reachable", "reachable"):
        said = mover("apply", "--confirm", "300", "--probe", words, check=False).stderr
        assert "the probe fails before anything is changed" in said
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    mover("apply", "--confirm", "300", "--probe", "reachable")
    assert mover.force() == NEW
    (tmp_path / "yes").unlink()
    assert wait_until(lambda: mover.force() == OLD, timeout=20.0)


def test_what_systemd_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A unit has an environment of its own: it gets what tells where things are, as absolute paths."""
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("PATH", "bin:/usr/bin"), ("PYTHONPATH", ""), ("XTABLES_LOCKFILE", "lock"),
        ("NFKEEP_RUN_DIRECTORY", "/run/x:y"), ("NFKEEP_STATE_DIRECTORY", "state"), ("HOME", "/root"), ("SECRET", "x"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert watch.environment() == {
        "PATH": f"{tmp_path}/bin:/usr/bin", "XTABLES_LOCKFILE": f"{tmp_path}/lock", "NFKEEP_RUN_DIRECTORY": "/run/x:y",
        "NFKEEP_STATE_DIRECTORY": f"{tmp_path}/state", "HOME": "/root",
    }  # fmt: skip


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e10", "0.5", "-1"])
def test_seconds_that_are_none(mover: Mover, seconds: str) -> None:
    """Wrong usage: nothing is begun."""
    done = mover("apply", "--confirm", seconds, check=False)
    assert (done.returncode, "--confirm" in done.stderr) == (2, True), done.stderr
    assert mover.status()["state"] == "not begun"
