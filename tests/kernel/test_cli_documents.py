"""Every example in README.md and docs/ runs and prints what the page says; a page marks the few that do not, and why.

An example finds itself on the host that the pages speak of: it serves TCP port 873, allows ten connections per client,
and has ten of fourteen from one client. A block is exempt if the line `<!-- not run: REASON -->` stands before it.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from nfkeep.model import Family
from nfkeep.testing import EchoServer, Gateway, dial

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@attrs.frozen
class Block:
    """A fenced block: where it begins, its language, its text, and the text of a `text` block right behind it."""

    page: Path
    line: int
    language: str
    text: str
    output: str | None
    exempt: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text().splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    pairs = list(zip(fences[::2], fences[1::2], strict=True))
    found = []
    for i, (start, end) in enumerate(pairs):
        output = None
        if i + 1 < len(pairs) and lines[pairs[i + 1][0]] == "```text" and not any(lines[end + 1 : pairs[i + 1][0]]):
            output = "\n".join(lines[pairs[i + 1][0] + 1 : pairs[i + 1][1]]) + "\n"
        before = next((line for line in reversed(lines[:start]) if line), "")
        text = "\n".join(lines[start + 1 : end]) + "\n"
        exempt = re.fullmatch(r"<!-- not run: .+ -->", before) is not None
        found.append(Block(page, start + 1, lines[start][3:].strip(), text, output, exempt))
    return found


ALL = [block for page in PAGES for block in blocks(page) if not block.exempt]
PYTHON = [b for b in ALL if b.language == "python" and not b.text.startswith(("# conftest.py", "# test_"))]
FILES = [b for b in ALL if b.language == "python" and b not in PYTHON]
CONSOLE = [b for b in ALL if b.language == "console"]


@pytest.fixture
def limited_host() -> Iterator[Gateway]:
    """The host that the pages speak of is `gateway` of this network."""
    with Gateway.build() as net:
        net.gateway.run(
            "iptables-legacy -A INPUT -p tcp --syn --dport 873"
            " -m connlimit --connlimit-above 10 -j REJECT --reject-with tcp-reset"
        )
        address = net.gateway_address(Family.IPV4)
        with EchoServer(net.gateway, Family.IPV4, "tcp", address, 873):
            admitted = dial(net.client, Family.IPV4, "tcp", address, 873, 14)
            assert len(admitted) == 10
            yield net
            for connection in admitted:
                connection.abort()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `nfkeep` and `nfkeep-migrate` are commands."""
    modules = {"nfkeep": "nfkeep.cli", "nfkeep-migrate": "nfkeep.cli.migrate"}
    for name, module in modules.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block: Block, limited_host: Gateway, environment: dict[str, str], tmp_path: Path) -> None:
    """A Python example runs as it stands, and prints what is shown behind it."""
    script = tmp_path / "example.py"
    script.write_text(block.text)
    done = limited_host.gateway.run([sys.executable, str(script)], env=environment)
    assert_same(block.output or "", done.stdout + done.stderr)


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_console(block: Block, limited_host: Gateway, environment: dict[str, str], tmp_path: Path) -> None:
    """The commands of a console example print what is shown behind each of them."""
    expected, script = "", ""
    for line in block.text.splitlines():
        if line.startswith("# "):
            script += f"{line[2:]}\n"
            expected += f"{line}\n"
        else:
            expected += f"{line}\n"
    got = ""
    for command in script.splitlines():
        done = limited_host.gateway.run(
            ["sh", "-c", f'cd "{tmp_path}"\nexec 2>&1\n{command}'], check=False, env=environment
        )
        got += f"# {command}\n{done.stdout}"
    assert_same(expected, got)


@pytest.mark.parametrize("page", sorted({block.page for block in FILES}), ids=lambda page: page.name)
def test_files(page: Path, tmp_path: Path) -> None:
    """Examples that begin with the name of a file are a test suite that passes."""
    for block in FILES:
        if block.page == page:
            (tmp_path / block.text.split()[1]).write_text(block.text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_are_found() -> None:
    """There are examples of each sort, so that a change of style does not silently leave them out."""
    assert PYTHON
    assert CONSOLE
    assert FILES
    assert any(block.page.name == "README.md" and block.output for block in PYTHON)


def assert_same(expected: str, got: str) -> None:
    """Equal up to times, iptables' version, and what `...` on a page leaves out."""
    if not doctest.OutputChecker().check_output(_normal(expected), _normal(got), doctest.ELLIPSIS):
        assert _normal(got) == _normal(expected)


def _normal(text: str) -> str:
    text = re.sub(r"tables v[0-9.]+ ", "tables vN ", text)
    text = re.sub(r" *\b\d+(\.\d+)? ms", " N ms", text)
    return re.sub(r'("gate_seconds": )\d+\.\d+', r"\1N", text)
