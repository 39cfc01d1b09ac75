"""`nfkeep-migrate translate` as a shell has it: what goes where, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from nfkeep import Family, migrate

if TYPE_CHECKING:
    from pathlib import Path

EXACT = "*filter\n:INPUT DROP [7:9]\n-A INPUT -s 192.0.2.1/32 -j ACCEPT\nCOMMIT\n"
LOST = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m no_such_match --really -j DROP\nCOMMIT\n"
BROKEN = "*filter\n:INPUT ACCEPT [0:0]\n-A OUTPUTT -j DROP\nCOMMIT\n"


@attrs.frozen
class Run:
    """What a command has done."""

    status: int
    out: bytes
    err: str


def run(*arguments: str | Path, given: bytes = b"") -> Run:
    """`nfkeep-migrate` as a process, with bytes on its standard input."""
    code = "import sys; from nfkeep.cli.migrate import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], input=given, capture_output=True, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr.decode())


def test_an_exact_translation_is_the_script_and_nothing_else() -> None:
    """The script goes to stdout as the library makes it, nothing to stderr, and the status is 0."""
    expected = migrate.translate(EXACT, Family.IPV4).script.encode()
    assert run("translate", given=EXACT.encode()) == Run(0, expected, "")


def test_reads_a_file(tmp_path: Path) -> None:
    """A file and standard input are the same; so is `-`."""
    (tmp_path / "rules").write_text(EXACT)
    assert run("translate", tmp_path / "rules") == run("translate", "-", given=EXACT.encode())


def test_of_the_other_family() -> None:
    """With --ipv6 it is a script for ip6."""
    assert b"table ip6 filter" in run("translate", "--ipv6", given=EXACT.encode()).out


def test_a_loss_is_told(tmp_path: Path) -> None:
    """A lost rule has its line in the script, its row on stderr, its object in the file, and makes the status 4."""
    done = run("translate", "--losses", tmp_path / "losses", given=LOST.encode())
    assert done.status == 4
    assert b"# LOST line 3: -A INPUT -m no_such_match" in done.out
    heading, row = done.err.splitlines()
    assert heading.split() == ["LINE", "IS", "WHAT", "WHY", "WHAT", "TO", "DO"]
    assert row.split()[:2] == ["3", "lost"]
    (loss,) = json.loads((tmp_path / "losses").read_text())
    assert set(loss) == {"line", "rule", "part", "fidelity", "reason", "advice"}
    assert (loss["line"], loss["fidelity"]) == (3, "lost")
    assert loss["rule"] == LOST.splitlines()[2]


def test_no_losses_are_an_empty_list(tmp_path: Path) -> None:
    """The file of --losses is written in any case."""
    run("translate", "--losses", tmp_path / "losses", given=EXACT.encode())
    assert json.loads((tmp_path / "losses").read_text()) == []


def test_as_json() -> None:
    """--json has script and losses in one object, nothing on stderr, and the same status."""
    done = run("translate", "--json", given=LOST.encode())
    assert (done.status, done.err) == (4, "")
    told = json.loads(done.out)
    assert told["exact"] is False
    assert told["script"] == migrate.translate(LOST, Family.IPV4).script
    assert [loss["line"] for loss in told["losses"]] == [3]


def test_what_iptables_restore_refuses_is_refused() -> None:
    """One line on stderr that names the line of the text, no script, status 1."""
    done = run("translate", given=BROKEN.encode())
    assert (done.status, done.out) == (1, b"")
    assert done.err.startswith("nfkeep-migrate: line 3: table filter has no chain 'OUTPUTT'")
    assert done.err.count("\n") == 1


def test_a_losses_file_that_cannot_be_written_is_told_first() -> None:
    """Nothing is printed then."""
    done = run("translate", "--losses", "/nonexistent/losses", given=EXACT.encode())
    assert (done.status, done.out) == (2, b"")


@pytest.mark.parametrize("octets", [b"caf\xe9", "café".encode(), b"\xff\xfe"], ids=repr)
def test_bytes_that_are_not_utf_8_come_through(octets: bytes) -> None:
    """A comment in Latin-1 is the same bytes in the script."""
    rule = b'-A INPUT -m comment --comment "' + octets + b'" -j ACCEPT\n'
    done = run("translate", given=b"*filter\n:INPUT ACCEPT [0:0]\n" + rule + b"COMMIT\n")
    assert done.status == 0
    assert b'comment "' + octets + b'"\n' in done.out
