"""The commands as they meet a user who asks for help, mistypes, lacks a package or interrupts: statuses and words."""

from __future__ import annotations

import builtins
import importlib
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import cli
from nfkeep.cli import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

HELP = {
    "nfkeep": (cli.main, ["--help"], "connection limits"),
    "demo": (cli.main, ["demo", "--help"], "--json"),
    "show": (cli.main, ["show", "--help"], "approximated"),
    "nfkeep-migrate": (migrate.main, ["--help"], "from iptables to nftables"),
}
WRONG = {
    "no command": (cli.main, []),
    "no such command": (cli.main, ["shwo"]),
    "no such option": (cli.main, ["show", "--jsn"]),
    "an argument too many": (cli.main, ["demo", "fast"]),
    "a page that cannot be written": (migrate.main, ["plan", "--html", "/nonexistent/page"]),
    "no such option of translate": (migrate.main, ["translate", "--ipv5"]),
    "no packets": (migrate.main, ["verify", "--packets", "0"]),
    "a file that is not there": (migrate.main, ["translate", "/nonexistent/rules"]),
    "nothing to migrate": (migrate.main, []),
}


@pytest.mark.parametrize(("main", "arguments", "said"), HELP.values(), ids=HELP)
def test_help(
    main: Callable[[Sequence[str]], int], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--help goes to stdout, with status 0."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert said in " ".join(out.split())
    assert err == ""


@pytest.mark.parametrize(("main", "arguments"), WRONG.values(), ids=WRONG)
def test_wrong_usage(
    main: Callable[[Sequence[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage is told on stderr, with status 2."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


@pytest.mark.parametrize(("name", "main"), [("nfkeep", cli.main), ("nfkeep-migrate", migrate.main)])
def test_version(name: str, main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    """--version is the version of the package."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{name} {nfkeep.__version__}\n"


@pytest.mark.parametrize(
    ("main", "commands"),
    [(cli.main, {"demo", "ip6tables", "iptables", "show"}), (migrate.main, {"translate", "verify"})],
    ids=["nfkeep", "nfkeep-migrate"],
)
def test_every_command_has_a_line_of_help(
    main: Callable[[Sequence[str]], int], commands: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of the group names each command and what it does."""
    main(["--help"])
    lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    told = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ") and len(line.split()) > 1}
    assert {name for name, words in told.items() if words} >= commands


@pytest.mark.parametrize("missing", ["click", "rich"])
@pytest.mark.parametrize("main", [cli.main, migrate.main], ids=["nfkeep", "nfkeep-migrate"])
def test_without_the_extra(
    missing: str,
    main: Callable[[Sequence[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without click or rich there is one line that says what to install, and status 1."""
    real = builtins.__import__

    def no_such_module(name: str, *rest: object) -> object:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_such_module)
    assert main(["--help"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(": the commands need the extra: pip install 'nfkeep[cli]'\n")
    assert err.count("\n") == 1


def test_as_a_module(tmp_path: Path) -> None:
    """`python -m nfkeep.cli` is the command."""
    command = [sys.executable, "-m", "nfkeep.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"nfkeep {nfkeep.__version__}\n"


def test_importing_the_entry_points_costs_nothing(tmp_path: Path) -> None:
    """`nfkeep.cli` and `nfkeep.cli.migrate` load neither click nor rich nor compiled parts."""
    code = (
        "import sys, nfkeep.cli, nfkeep.cli.migrate\n"
        "heavy = {'click', 'rich', 'nfkeep.xtables', 'nfkeep.conntrack', 'nftables'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


FAILURES = {
    "an error of nfkeep": (nfkeep.UnsupportedError("no such\nthing"), 1, "nfkeep: no such thing\n"),
    "an error of the system": (FileNotFoundError(2, "No such file", "x"), 1, "nfkeep: [Errno 2] No such file: 'x'\n"),
    "a right": (PermissionError(13, "Permission denied", "/run/x"), 1, "nfkeep: /run/x: permission denied; "),
    "another program": (subprocess.CalledProcessError(3, ["iptables"]), 1, "nfkeep: Command '['iptables']' returned"),
    "a library": (ImportError("libip4tc.so.2: no such file"), 1, "nfkeep: a part of nfkeep cannot be loaded: libip"),
    "what a terminal would obey": (nfkeep.UnsupportedError("a\x1b[2Jb"), 1, "nfkeep: a\\x1b[2Jb\n"),
    "Ctrl-C": (KeyboardInterrupt(), 130, ""),
}


@pytest.mark.parametrize(("error", "status", "line"), FAILURES.values(), ids=FAILURES)
def test_failures(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever ends a command ends it with a status and one line, never with a traceback."""

    def main(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(command=SimpleNamespace(main=main)))
    assert cli.main([]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert len(err.splitlines()) == (1 if line else 0)
