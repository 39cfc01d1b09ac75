"""The commands on ban lists as they meet a user who asks for help or mistypes; times as people write and read them."""

from __future__ import annotations

import math
import subprocess
import sys

import click
import pytest

from nfkeep import cli
from nfkeep.cli import duration, table

HELP = {
    "ban": (["ban", "--help"], "--for TIME"),
    "unban": (["unban", "--help"], "lies in"),
    "bans": (["bans", "--help"], "Nothing is changed"),
    "list": (["list", "--help"], "create"),
    "list create": (["list", "create", "--help"], "--reject-with"),
    "list show": (["list", "show", "--help"], "--json"),
    "list flush": (["list", "flush", "--help"], "the list stays"),
    "list remove": (["list", "remove", "--help"], "The allow list stays"),
    "allow": (["allow", "--help"], "--remove"),
    "doctor": (["doctor", "--help"], "Exit status 1"),
}
WRONG = {
    "ban whom": ["ban", "sshd"],
    "ban where": ["ban"],
    "a dash among addresses": ["ban", "sshd", "203.0.113.9", "-"],
    "an address that begins with a dash": ["ban", "sshd", "-203.0.113.9"],
    "no such backend": ["ban", "sshd", "203.0.113.9", "--backend", "ebtables"],
    "no span of time": ["ban", "sshd", "203.0.113.9", "--for", "soon"],
    "no time at all": ["ban", "sshd", "203.0.113.9", "--for", "0s"],
    "unban whom": ["unban", "sshd"],
    "two lists": ["bans", "sshd", "web"],
    "no such thing to do": ["list", "destroy", "sshd"],
    "nothing to do": ["list"],
    "which list": ["list", "create"],
    "no such action": ["list", "create", "sshd", "--action", "tarpit"],
    "no such answer": ["list", "create", "sshd", "--reject-with", "teapot"],
    "an answer to what is dropped": ["list", "create", "sshd", "--action", "drop", "--reject-with", "no-route"],
    "no room": ["list", "create", "sshd", "--size", "0"],
    "more room than there is": ["list", "create", "sshd", "--size", "99999999"],
    "remove whom": ["allow", "--remove"],
    "doctor of what": ["doctor", "sshd"],
}


@pytest.mark.parametrize(("arguments", "said"), HELP.values(), ids=HELP)
def test_help(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help goes to stdout, with status 0, and looks at no kernel."""
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert said in " ".join(out.split())
    assert err == ""


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is told on stderr, with status 2, before anything is looked at."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


def test_each_command_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of both groups names each command and what it does."""
    told = set()
    for arguments in (["--help"], ["list", "--help"]):
        cli.main(arguments)
        lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
        told |= {line.split()[0] for line in lines if len(line.split()) > 1}
    assert told >= {"allow", "ban", "bans", "doctor", "list", "unban", "create", "flush", "remove", "show"}


TIMES = {
    "90": 90.0,
    "90s": 90.0,
    "1h": 3600.0,
    "1h30m": 5400.0,
    "7d": 604_800.0,
    "2w": 1_209_600.0,
    "1d12h30m5s": 131_405.0,
    "0h1s": 1.0,
    "forever": math.inf,
    None: None,
}
NO_TIMES = ["", "0", "0s", "-1", "-5m", "1.5h", "1 h", "30m1h", "1h1h", "h", "1y", "inf", "nan", "1e3", "٣s", "9" * 99]


@pytest.mark.parametrize(("text", "expected"), TIMES.items(), ids=map(str, TIMES))
def test_spans_of_time(text: str | None, expected: float | None) -> None:
    """Units from weeks to seconds, largest first, each once; a bare number is seconds."""
    assert duration.seconds(CONTEXT, OPTION, text) == expected


@pytest.mark.parametrize("text", NO_TIMES)
def test_no_spans_of_time(text: str) -> None:
    """Everything else is wrong usage."""
    with pytest.raises(click.BadParameter):
        duration.seconds(CONTEXT, OPTION, text)


CONTEXT, OPTION = click.Context(click.Command("ban")), click.Option(["--for"])

WORDS = {
    None: "forever",
    math.inf: "forever",
    0.4: "0s",
    59.99: "59s",
    60.0: "1m",
    3599.9: "59m59s",
    3605.0: "1h",
    90_061.0: "1d1h",
    604_800.0: "7d",
}


@pytest.mark.parametrize(("span", "expected"), WORDS.items(), ids=map(str, WORDS))
def test_times_in_words(span: float | None, expected: str) -> None:
    """The two largest units that stand side by side, rounded down."""
    assert duration.words(span) == expected


CELLS: dict[str, tuple[str, str]] = {
    "text": ("scans, Müller", "scans, Müller"),
    "an escape": ("\x1b[2J", r"\x1b[2J"),
    "a line break": ("a\nb", r"a\nb"),
    "a direction mark": ("a\u202eb", r"a\u202eb"),
}


@pytest.mark.parametrize(("text", "expected"), CELLS.values(), ids=CELLS)
def test_cells_only_print(text: str, expected: str) -> None:
    """Nothing that a terminal would obey gets through."""
    assert table.plain(text) == expected


@pytest.mark.parametrize("command", ["allow", "ban", "bans", "doctor", "unban"])
def test_help_draws_nothing(command: str) -> None:
    """What draws tables is loaded when one is drawn, and not before."""
    script = f"import sys; from nfkeep.cli import main; main(['{command}', '--help']); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "nfkeep.cli.commands" in done.stdout.split()
    assert "rich.table" not in done.stdout.split()
