"""The commands `nfkeep` and `nfkeep-migrate`, the only part of nfkeep that prints.

Importing this costs nothing; click, rich and the command itself are loaded when a command runs. Exit status: 0 done,
1 failed with one line on stderr, 2 wrong usage, 130 interrupted; `nfkeep iptables` has the status of iptables.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from nfkeep.errors import NfkeepError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "run"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `nfkeep`, with the process's arguments unless some are given; the exit status."""
    return run("nfkeep", "nfkeep.cli.commands", arguments)


def run(name: str, module: str, arguments: Sequence[str] | None = None) -> int:
    """Run the click command called `command` in a module, and turn all that can go wrong into a line and a status."""
    try:
        import click
        import rich  # noqa: F401 (missing here, it is told better than from the depth of a command)
    except ModuleNotFoundError:
        return _fail(name, "the commands need the extra: pip install 'nfkeep[cli]'")
    except KeyboardInterrupt:
        return _INTERRUPTED
    try:
        command: click.Command = importlib.import_module(module).command
        status = command.main(None if arguments is None else list(arguments), name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:  # wrong usage, most of all
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as in `nfkeep show | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PermissionError as error:
        return _fail(name, f"{error.filename or 'the kernel'}: permission denied; this needs root")
    except (NfkeepError, OSError, subprocess.SubprocessError) as error:
        return _fail(name, str(error))
    except ImportError as error:
        return _fail(name, f"a part of nfkeep cannot be loaded: {error}")
    return status if isinstance(status, int) else 0


_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


def _fail(name: str, message: str) -> int:
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    print(f"{name}: {line}", file=sys.stderr)
    return 1
