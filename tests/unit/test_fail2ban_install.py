"""`nfkeep fail2ban install`: which files it writes, for which Python, and what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nfkeep.cli.fail2ban import fail2ban
from nfkeep.errors import NfkeepError, UnsupportedError
from nfkeep.integrations.fail2ban import configuration, database, interpreter
from nfkeep.integrations.fail2ban.install import COMMAND_ACTION, PYTHON_ACTION

# fail2ban is for some Python only, and this is about nfkeep: what stands for it here has what the action imports
WITH_FAIL2BAN = """
import types
for name in ("fail2ban", "fail2ban.server", "fail2ban.server.action"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["fail2ban.server.action"].ActionBase = object
"""


def python(directory: Path, prelude: str) -> str:
    """A Python that does something of its own before it runs `-I -c PROGRAM`."""
    script = directory / "python"
    script.write_text(f"#!{sys.executable} -I\nimport sys\n{prelude}\nexec(sys.argv[-1])\n")
    script.chmod(0o755)
    return str(script)


def install(root: Path, interpreter_path: str, *words: str) -> tuple[str, str]:
    """Run it; stdout and stderr."""
    done = CliRunner().invoke(
        fail2ban, ["install", "--root", str(root), "--python", interpreter_path, "--command", "/opt/nfkeep", *words]
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout, done.stderr


def actions(root: Path) -> dict[str, str]:
    """The files that are there, and their text."""
    return {path.name: path.read_text() for path in (root / "etc" / "fail2ban" / "action.d").iterdir()}


def test_both_actions_for_a_python_that_can_import_nfkeep(tmp_path: Path) -> None:
    """The Python action knows where the packages are; jail.local is to name it."""
    said, _ = install(tmp_path, python(tmp_path, WITH_FAIL2BAN))
    written = actions(tmp_path)
    assert set(written) == {PYTHON_ACTION, COMMAND_ACTION}
    assert all(place in written[PYTHON_ACTION] for place in interpreter.places().values())
    assert "nfkeep = /opt/nfkeep\n" in written[COMMAND_ACTION]
    assert "banaction = nfkeep-action.py\n" in said
    compile(written[PYTHON_ACTION], PYTHON_ACTION, "exec")


def test_only_the_command_for_a_python_that_cannot(tmp_path: Path) -> None:
    """The reason is told, with what helps, and jail.local is to name the other action."""
    said, warned = install(tmp_path, python(tmp_path, f'{WITH_FAIL2BAN}sys.modules["_cffi_backend"] = None'))
    assert set(actions(tmp_path)) == {COMMAND_ACTION}
    assert "banaction = nfkeep\n" in said
    assert "import of _cffi_backend halted" in warned
    assert "install python3-cffi-backend" in warned


def test_a_python_that_does_not_run_fail2ban_is_told(tmp_path: Path) -> None:
    """It may import nfkeep, but has no fail2ban."""
    _, warned = install(tmp_path, python(tmp_path, 'sys.modules["fail2ban"] = None'))
    assert "fail2ban" in warned
    assert set(actions(tmp_path)) == {COMMAND_ACTION}


def test_an_action_that_stopped_working_is_pointed_out(tmp_path: Path) -> None:
    """After an upgrade of Python the file of before is still there, and is not left to be found by accident."""
    install(tmp_path, python(tmp_path, WITH_FAIL2BAN))
    _, warned = install(tmp_path, "/nonexistent/python")
    assert f"{PYTHON_ACTION}, of an earlier installation, does not work any more" in warned
    assert "/nonexistent/python cannot be run" in warned


def test_it_is_done_only_once(tmp_path: Path) -> None:
    """A second time nothing is written."""
    able = python(tmp_path, WITH_FAIL2BAN)
    first, second = (json.loads(install(tmp_path, able, "--json")[0]) for _ in range(2))
    assert [file["written"] for file in first["files"]] == [True, True]
    assert [file["written"] for file in second["files"]] == [False, False]
    assert first["jail_local"] == [
        "[DEFAULT]",
        "banaction = nfkeep-action.py",
        "banaction_allports = nfkeep-action.py[type=allports]",
    ]


def test_the_python_of_fail2ban_is_that_of_its_first_line(tmp_path: Path) -> None:
    """Of fail2ban-server below the root; without one, or without a Python in it, the operator is asked."""
    server = tmp_path / "usr" / "bin" / "fail2ban-server"
    server.parent.mkdir(parents=True)
    server.write_text(f"#!{sys.executable} -Es\n")
    assert interpreter.fail2ban_python(tmp_path) == sys.executable
    server.write_text("\x7fELF")
    with pytest.raises(UnsupportedError, match="--python"):
        interpreter.fail2ban_python(tmp_path)


DUMP = r"""
2026-11-22 19:58:38,854 fail2ban.configreader   [22900]: WARNING 'allowipv6' not defined
['set', 'dbfile', '/srv/bans.sqlite3']
['add', 'one', 'polling']
['set', 'one', 'addaction', 'smtp', '/etc/fail2ban/action.d/smtp.py', '{"dest": "root"}']
['set', 'one', 'addaction', 'nfkeep-action', '/etc/fail2ban/action.d/nfkeep-action.py', '{"port": "ssh"}']
['set', 'two', 'addaction', 'nfkeep']
['multi-set', 'two', 'action', 'nfkeep', [['actionban', 'x'], ['action_of_nfkeep', 'nfkeep'], ['list', 'f2b-<name>'],
"""
DUMP = DUMP.rstrip() + " ['name', 'two'], ['port', '80'], ['blocktype', 'reject']]]\n['start', 'one']\n"


def test_the_configuration_as_fail2ban_dumps_it() -> None:
    """Our actions are found among all others, whichever of the two a jail has."""
    found = configuration.parse(DUMP)
    assert found.database == Path("/srv/bans.sqlite3")
    assert [(jail, each.list_name, each.ports, each.action) for jail, each in found.jails] == [
        ("one", "f2b-one", ("22/tcp",), "drop"),
        ("two", "f2b-two", ("80/tcp",), "reject"),
    ]
    assert configuration.parse("['set', 'dbfile', 'None']").database is None


def test_two_actions_of_one_name_are_noticed() -> None:
    """As in some jails of jail.conf, with one action for each protocol; fail2ban then starts nothing."""
    line = "['set', 'asterisk', 'addaction', '{}', '/etc/fail2ban/action.d/nfkeep-action.py', '{{}}']\n"
    assert configuration.parse(2 * line.format("nfkeep-action")).clashing == ("asterisk",)
    assert configuration.parse(line.format("a") + line.format("b")).clashing == ()


def test_what_is_no_database_of_fail2ban_is_told(tmp_path: Path) -> None:
    """A file that is none, and one that is not there, are errors that name it; nothing is made."""
    broken = tmp_path / "broken"
    broken.write_text("this is not a database, whatever its name says")
    for path in (broken, tmp_path / "nowhere"):
        with pytest.raises(NfkeepError, match=path.name):
            database.rows(path, "one")
    assert not (tmp_path / "nowhere").exists()
