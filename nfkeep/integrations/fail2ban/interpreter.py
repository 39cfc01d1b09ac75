"""The Python that runs fail2ban, and whether it can import nfkeep from where it is installed.

They may be two: fail2ban is the distribution's, and nfkeep can be in a virtual environment. What is written in Python
alone is good for both; the part of cffi that is compiled for one minor version is what may be missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from nfkeep.errors import UnsupportedError

__all__ = ["Trial", "fail2ban_python", "places", "trial"]

_PACKAGES = ("nfkeep", "attr", "attrs", "_cffi_backend")
"""What nfkeep imports at run time, of what does not come with Python."""


@attrs.frozen(slots=True)
class Trial:
    """Whether a Python imported nfkeep. `reason`: why not, and what helps; "" if it did."""

    python: str
    version: str
    reason: str

    @property
    def works(self) -> bool:
        """Whether it did."""
        return not self.reason


def fail2ban_python(root: Path) -> str:
    """The Python that runs fail2ban-server below `root`, from its first line; raises UnsupportedError."""
    found = next(
        (path for name in ("usr/bin", "usr/local/bin", "bin") if (path := root / name / _SERVER).exists()), None
    )
    server = str(found) if found else shutil.which(_SERVER)
    if server is None:
        raise UnsupportedError("there is no fail2ban-server here; say which Python runs it with --python", "fail2ban")
    with open(server, "rb") as file:
        words = file.readline().decode(errors="replace").removeprefix("#!").split()
    if words[:1] == ["/usr/bin/env"]:
        words = [shutil.which(words[-1]) or words[-1]]
    if not words or not os.access(words[0], os.X_OK):
        raise UnsupportedError(f"{server} does not say which Python runs it; say it with --python", "fail2ban")
    return words[0]


def places() -> dict[str, str]:
    """The directory that each package is in which nfkeep needs, for the Python that runs this.

    That is where an editable installation points to, for one.
    """
    found = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not (spec.origin or spec.submodule_search_locations):
            raise UnsupportedError(f"the package {name}, which nfkeep needs, is not to be found", name)
        inside = list(spec.submodule_search_locations or [])
        path = Path(inside[0]) if inside else Path(str(spec.origin))
        found[name] = str(path.resolve().parent)
    return found


def trial(python: str, action: str) -> Trial:
    """Have a Python import nfkeep in the way that the action file `action` (its text) does."""
    finder = action.partition(_FIRST_OF_FAIL2BAN)[0]
    program = f"{finder}\nprint(sys.version.split()[0])\n{_IMPORTS}"
    try:
        # isolated: as a service has it, without this shell's variables; from nowhere that has packages by chance
        done = subprocess.run([python, "-I", "-B", "-c", program], capture_output=True, text=True, cwd="/", check=False)
    except OSError as error:
        return Trial(python, "", f"{python} cannot be run: {error.strerror}")
    version = done.stdout.strip()
    if not done.returncode:
        return Trial(python, version, "")
    said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    return Trial(python, version, said + _advice(said, version))


def writable_by_others(packages: Mapping[str, str]) -> list[str]:
    """Those of the directories that others than root may change; fail2ban, as root, runs what is in them."""
    found = set()
    for name, place in packages.items():
        for path in (Path(place, name), Path(place), *Path(place).parents):
            if path.exists():
                status = path.stat()
                loose = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
                if status.st_uid or loose:
                    found.add(str(path))
    return sorted(found)


_SERVER = "fail2ban-server"
_FIRST_OF_FAIL2BAN = "from fail2ban."
_IMPORTS = "import nfkeep.integrations.fail2ban.jail_bans, nfkeep.bans.nft_backend, fail2ban.server.action"


def _advice(said: str, version: str) -> str:
    own = ".".join(map(str, sys.version_info[:2]))
    if "_cffi_backend" in said:
        return (
            f" (what is here was made for Python {own}, and this is {version}: install python3-cffi-backend for it, "
            "or nfkeep with this Python)"
        )
    if "'fail2ban'" in said:
        return " (so this Python does not run fail2ban)"
    return f" (nfkeep is installed for Python {own})" if not version.startswith(f"{own}.") else ""
