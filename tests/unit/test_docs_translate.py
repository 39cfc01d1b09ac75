"""The table at the end of docs/translate.md is that of the modules: every extension, and which of them are lost."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from nfkeep.migrate import matches, targets

PAGE = Path(__file__).parents[2] / "docs" / "translate.md"
HEADING = "## What is known of each extension\n"


def rows() -> list[str]:
    """One row for each module."""
    found = ["| extension | options | |", "|---|---|---|"]
    for package, flag, name_of in ((matches, "-m", str.lower), (targets, "-j", str.upper)):
        for path in sorted(Path(package.__path__[0]).glob("[a-z]*.py")):
            module = importlib.import_module(f"{package.__name__}.{path.stem}")
            options = ", ".join(f"`{option}`" for option in module.OPTIONS)
            lost = "lost" if _only_raises(path.read_text()) else ""
            found.append(f"| `{flag} {name_of(path.stem)}` | {options} | {lost} |".replace("|  |", "| |"))
    return found


def _only_raises(source: str) -> bool:
    """Whether `translate` does nothing but say that it cannot."""
    (function,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "translate"
    )
    return not any(isinstance(node, ast.Return) for node in ast.walk(function))


def test_the_page_has_every_extension() -> None:
    """Write the rows below into the page when this fails."""
    text = PAGE.read_text().partition(HEADING)[2]
    assert [line for line in text.splitlines() if line.startswith("|")] == rows()
