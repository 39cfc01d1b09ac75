"""`nfkeep demo` shows the loss and that nfkeep prevents it, says so honestly where it does not, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from nfkeep.cli.demo import Comparison, judge
from nfkeep.cli.incident import SHAPES, Replay
from nfkeep.testing import wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    """The command. A script and not `python -m`, which would prefer a checkout in the current directory."""
    script = tmp_path / "command.py"
    script.write_text("import sys\nfrom nfkeep.cli import main\nsys.exit(main())\n")
    return [sys.executable, str(script), "demo"]


def test_shows_it(demo: list[str]) -> None:
    """Every shape: plain iptables lets ten more in, nfkeep none, all old ones live, three replace three; status 0."""
    done = subprocess.run([*demo, "--json"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    assert [shape["name"] for shape in seen["shapes"]] == [shape.name for shape in SHAPES]
    for shape in seen["shapes"]:
        gate_seconds = shape["nfkeep"].pop("gate_seconds")
        assert 0 < gate_seconds < 5
        assert shape["nfkeep"] == {"let_in": 10, "more": 0, "alive": 10, "after_closing": 3}, shape["name"]
        assert shape["plain"]["let_in"] == shape["plain"]["more"] == 10, shape["name"]
    assert seen["good"] is True
    assert done.returncode == 0


def test_prints_a_table(demo: list[str]) -> None:
    """Without --json: the problem in two lines, a table no wider than a terminal, and a closing line."""
    done = subprocess.run(demo, capture_output=True, text=True, check=False)
    problem, table, closing = done.stdout.partition("\n\n")[0], done.stdout, done.stdout.splitlines()[-1]
    assert len(problem.splitlines()) == 2
    assert "plain iptables" in table
    assert max(map(len, table.splitlines()[:-1])) <= 80
    assert closing == "Plain iptables let in 20 where 10 are allowed; nfkeep kept every count and every connection."
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.3], ids=str)
def test_ctrl_c(seconds: float, demo: list[str], tmp_path: Path) -> None:
    """Ctrl-C so long after its first words ends it with status 130, without a traceback, and nothing stays.

    No process, file or device.
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    devices = os.listdir("/sys/class/net")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1].strip() == ""
    assert process.returncode == 130
    assert list(temporary.iterdir()) == []
    assert os.listdir("/sys/class/net") == devices
    assert wait_until(lambda: not processes_with(f"TMPDIR={temporary}"))


def processes_with(variable: str) -> list[str]:
    """The processes that have a variable in their environment: those that a command of ours has started."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "comm").read_text().strip())
    return found


KEPT = Replay(let_in=10, more=0, alive=10, after_closing=3, gate_seconds=0.02)
LOST = Replay(let_in=10, more=10, alive=10, after_closing=0, gate_seconds=None)
VERDICTS = {
    "as it should be": (LOST, KEPT, True, "kept every count"),
    "nfkeep let one in": (LOST, attrs.evolve(KEPT, more=1), False, "nfkeep did not keep the limit"),
    "nfkeep killed one": (LOST, attrs.evolve(KEPT, alive=9), False, "nfkeep did not keep the limit"),
    "nfkeep counts too many": (LOST, attrs.evolve(KEPT, after_closing=2), False, "nfkeep did not keep the limit"),
    "this kernel keeps counts": (attrs.evolve(KEPT, gate_seconds=None), KEPT, False, "keeps the counts by itself"),
    "the limit never worked": (attrs.evolve(LOST, let_in=14), KEPT, False, "this shows nothing"),
    "plain iptables is odd": (attrs.evolve(LOST, more=0), KEPT, False, "this shows nothing"),
}


@pytest.mark.parametrize(("plain", "kept", "good", "said"), VERDICTS.values(), ids=VERDICTS)
def test_verdict(plain: Replay, kept: Replay, good: bool, said: str) -> None:
    """The verdict is good only if plain iptables lost the counts and nfkeep kept everything."""
    usual = [Comparison(shape, LOST, KEPT) for shape in SHAPES[1:]]
    others = usual if not plain.kept else [attrs.evolve(each, plain=plain) for each in usual]
    verdict = judge([Comparison(SHAPES[0], plain, kept), *others])
    assert verdict[0] is good
    assert said in verdict[1]
