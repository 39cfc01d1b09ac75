"""`nfkeep-migrate plan --html`: the page of a real host's plan, beside the other forms of the plan and alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from page_tree import parsed

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

COMMAND = [sys.executable, "-c", "import sys; from nfkeep.cli.migrate import main; sys.exit(main())", "plan"]
HOSTILE = "</script><img src=x onerror=alert(1)>"
EXACT, APPROXIMATED = 0, 3


@pytest.fixture
def host(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """A namespace with a rule that somebody has commented."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    namespace.run(["iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-m", "comment", "--comment", HOSTILE])
    return namespace


def run(host: Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command there."""
    return host.run([*COMMAND, *arguments], check=False, env={**os.environ, "LC_ALL": "C"})


def test_beside_the_other_forms(host: Namespace, tmp_path: Path) -> None:
    """The page goes to the file, and what is printed is what it is without the page."""
    for form in ([], ["--json"], ["--script"]):
        made = run(host, *form, "--html", str(tmp_path / "plan.html"))
        assert (made.returncode, made.stdout, made.stderr) == (EXACT, run(host, *form).stdout, "")
    tree = parsed((tmp_path / "plan.html").read_text(encoding="utf-8"))
    row = tree.the("tr", id="ipv4-5")
    assert HOSTILE in row.text
    assert "ip saddr 192.0.2.1 counter" in row.text
    assert tree.the("pre").text == json.loads(run(host, "--json").stdout)["script"]


def test_alone(host: Namespace) -> None:
    """With - the page is all that is printed, as when it is sent through ssh; the status is that of the plan."""
    host.run("ip6tables-legacy -A INPUT -p tcp --dport 22")
    made = run(host, "--html", "-")
    assert (made.returncode, made.stderr) == (APPROXIMATED, "")
    assert made.stdout.startswith("<!DOCTYPE html>\n")
    assert made.stdout.endswith("</html>\n")
    assert HOSTILE in parsed(made.stdout).the("tr", id="ipv4-5").text


def test_a_file_that_cannot_be_written(host: Namespace) -> None:
    """It is told as wrong usage, before anything else."""
    made = run(host, "--html", "/nonexistent/plan.html")
    assert (made.returncode, made.stdout) == (2, "")
