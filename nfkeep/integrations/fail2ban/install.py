"""Puts fail2ban's two actions for nfkeep in place: which files, with which text, and the lines for jail.local.

The Python action is put there only if the Python that runs fail2ban can import nfkeep; the other one runs the command
`nfkeep`, whatever Python that has.
"""

from __future__ import annotations

import os
import pprint
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import attrs

from nfkeep.errors import UnsupportedError
from nfkeep.integrations.fail2ban.interpreter import Trial, fail2ban_python, places, trial, writable_by_others

__all__ = ["COMMAND_ACTION", "PYTHON_ACTION", "File", "Plan", "plan"]

PYTHON_ACTION = "nfkeep-action.py"
COMMAND_ACTION = "nfkeep.conf"
_DIRECTORY = Path("etc/fail2ban/action.d")


@attrs.frozen(slots=True)
class File:
    """One file that is to be there, with its text."""

    path: Path
    text: str

    @property
    def is_there(self) -> bool:
        """Whether it is there with this text already."""
        return self.path.is_file() and self.path.read_text(encoding="utf-8") == self.text

    def write(self) -> None:
        """Write it, in one step; raises OSError."""
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            made.write_text(self.text, encoding="utf-8")
            made.replace(self.path)
        finally:
            made.unlink(missing_ok=True)


@attrs.frozen(slots=True)
class Plan:
    """What an installation is to do. `trial`: what fail2ban's Python made of the Python action.

    `outdated`: a Python action that is there and does not work any more. `exposed`: directories with what fail2ban is
    to run as root, and that others may write to.
    """

    files: tuple[File, ...]
    trial: Trial
    outdated: Path | None
    exposed: tuple[str, ...]

    @property
    def jail_local(self) -> tuple[str, ...]:
        """The lines that jail.local needs."""
        action = PYTHON_ACTION if self.trial.works else COMMAND_ACTION.removesuffix(".conf")
        return "[DEFAULT]", f"banaction = {action}", f"banaction_allports = {action}[type=allports]"

    def carry_out(self) -> list[Path]:
        """Write what is not there yet; which files that was. Raises OSError."""
        written = []
        for file in self.files:
            if not file.is_there:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                file.write()
                written.append(file.path)
        return written


def plan(root: Path, python: str | None = None, command: str | None = None) -> Plan:
    """What to put where below `root`, for the Python that runs fail2ban and the command `nfkeep`, both found if None.

    Raises UnsupportedError where one of them is not to be found, or fail2ban is not there (below / only).
    """
    directory = root / _DIRECTORY
    if root == Path("/") and not directory.is_dir():
        raise UnsupportedError(f"fail2ban is not installed here: there is no directory {directory}", "fail2ban")
    packages = places()
    python_action = _template(PYTHON_ACTION).replace("PLACES = {}", f"PLACES = {pprint.pformat(packages)}")
    chosen = fail2ban_python(root) if python is None else os.path.abspath(python) if "/" in python else python
    tried = trial(chosen, python_action)
    command_action = _template(COMMAND_ACTION).replace("@nfkeep@", command or _command())
    wanted = [File(directory / COMMAND_ACTION, command_action)]
    if tried.works:
        wanted.append(File(directory / PYTHON_ACTION, python_action))
    there = directory / PYTHON_ACTION
    return Plan(
        tuple(wanted),
        tried,
        there if not tried.works and there.exists() else None,
        tuple(writable_by_others(packages)),
    )


def _template(name: str) -> str:
    return files(__package__).joinpath(f"{name}.in").read_text(encoding="utf-8")


def _command() -> str:
    """The command `nfkeep`, as fail2ban can run it from anywhere."""
    own = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).with_name("nfkeep")
    found = next((str(path) for path in (own, beside) if path.name == "nfkeep" and os.access(path, os.X_OK)), None)
    for words in ([found or shutil.which("nfkeep") or ""], [sys.executable, "-m", "nfkeep.cli"]):
        if words[0] and not subprocess.run([*words, "--version"], cwd="/", capture_output=True, check=False).returncode:
            return " ".join(words)
    raise UnsupportedError("the command nfkeep is not to be found; say where it is with --command", "nfkeep")
