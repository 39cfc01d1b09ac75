"""What fail2ban's configuration asks of nfkeep, read by fail2ban itself: `fail2ban-client -d`, which starts nothing.

So it can be told before fail2ban is restarted with it, whichever files set it.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.integrations.fail2ban.database import DATABASE
from nfkeep.integrations.fail2ban.install import COMMAND_ACTION, PYTHON_ACTION
from nfkeep.integrations.fail2ban.options import NAMES, Options

__all__ = ["Configuration", "read"]


@attrs.frozen(slots=True)
class Configuration:
    """The jails that nfkeep is to ban for, each with its parameters, and the database (None: fail2ban is to have none).

    A jail can have several actions of nfkeep, each with a list of its own. `clashing`: jails in which two of them have
    the same name, with which fail2ban starts no jail at all.
    """

    jails: tuple[tuple[str, Options], ...]
    database: Path | None
    clashing: tuple[str, ...] = ()


def read(directory: Path | None = None) -> Configuration:
    """Read the configuration in `directory`, which fail2ban chooses if it is None.

    Raises UnsupportedError without fail2ban-client, NfkeepError where it refuses the configuration, InvalidListError
    for parameters of our actions that cannot be.
    """
    client = shutil.which("fail2ban-client")
    if client is None:
        raise UnsupportedError("there is no fail2ban-client on PATH", "fail2ban")
    chosen = [] if directory is None else ["-c", str(directory)]
    done = subprocess.run([client, *chosen, "-d"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NfkeepError(f"fail2ban-client -d failed: {said[-1] if said else done.returncode}")
    return parse(done.stdout)


def parse(dump: str) -> Configuration:
    """What the lines of `fail2ban-client -d` say: each is a command to the server, as a list in Python's words."""
    database: Path | None = DATABASE
    jails = []
    clashing = []
    actions = set()
    for line in dump.splitlines():
        words = _command(line)
        if words[:2] == ["set", "dbfile"]:
            database = None if str(words[2]).lower() == "none" else Path(str(words[2]))
        elif words[:1] == ["set"] and words[2:3] == ["addaction"] and len(words) == 6:
            if Path(str(words[4])).name == PYTHON_ACTION:
                if (words[1], words[3]) in actions:
                    clashing.append(str(words[1]))
                actions.add((words[1], words[3]))
                jails.append((str(words[1]), Options.parse(str(words[1]), json.loads(str(words[5])))))
        elif words[:1] == ["multi-set"] and words[2:3] == ["action"]:
            given = dict(_pairs(words[4]))
            if f"{given.get('action_of_nfkeep')}.conf" == COMMAND_ACTION:
                name = given.get("name", "")
                known = {key: value.replace("<name>", name) for key, value in given.items() if key in NAMES}
                jails.append((str(words[1]), Options.parse(str(words[1]), known)))
    return Configuration(tuple(jails), database, tuple(clashing))


def _command(line: str) -> list[object]:
    try:
        found = ast.literal_eval(line)
    except (ValueError, SyntaxError):  # a message of the client, among the commands
        return []
    return found if isinstance(found, list) else []


def _pairs(given: object) -> Mapping[str, str]:
    pairs: Sequence[Sequence[object]] = given if isinstance(given, list) else []
    return {str(pair[0]): str(pair[1]) for pair in pairs if len(pair) == 2}
