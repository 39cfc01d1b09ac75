"""Runs in a machine of tests/machine.py, as a service: the host's commands, one after the other, in its shell.

A command comes as a line of JSON; "begun" is said before it runs, and then what came of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def main() -> None:
    (port,) = Path("/dev").glob("vport*p1")
    with port.open("r+b", buffering=0) as channel:

        def say(what: object) -> None:
            rest = memoryview(json.dumps(what).encode() + b"\n")
            while rest:
                rest = rest[channel.write(rest) :]

        say("here")
        for command in channel:
            say("begun")
            done = subprocess.run(
                json.loads(command), shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            say([done.returncode, done.stdout, done.stderr])


main()
