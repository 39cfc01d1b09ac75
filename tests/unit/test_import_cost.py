"""Importing nfkeep is cheap: what only a command, a test or a rare call needs is not loaded with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["click", "hypothesis", "pyroute2", "pytest", "rich", "scapy"]


def loaded_by(statement: str) -> set[str]:
    """The top-level names of all modules that a fresh interpreter has loaded after `statement`."""
    script = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement", ["import nfkeep", "import nfkeep.testing", "import nfkeep\nnfkeep.migrate.translate"]
)
def test_loads_nothing_heavy(statement: str) -> None:
    """Neither the library nor its testing tools load a package that only their optional parts need."""
    loaded = loaded_by(statement)
    assert "nfkeep" in loaded
    assert sorted(loaded.intersection(HEAVY)) == []


def test_the_translator_loads_on_its_first_use() -> None:
    """`nfkeep.migrate` is the package, `nfkeep.migrate.translate` the function; neither is loaded before it is used."""
    code = (
        "import sys, nfkeep\nimport nfkeep.migrate\n"
        "assert 'nfkeep.migrate.translation' not in sys.modules\n"
        "assert callable(nfkeep.migrate.translate)\n"
        "assert 'nfkeep.migrate.translation' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_would_notice() -> None:
    """The check sees a package that is loaded."""
    assert "pytest" in loaded_by("import pytest")
