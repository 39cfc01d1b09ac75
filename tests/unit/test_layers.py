"""The layers of nfkeep: imports point one way, down, and only `_ffi` modules know the compiled ones.

`faults` finds what a module's source breaks; it is shown its own table of faults before it judges the package.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTTOM = {"errors", "model", "namespaces", "plenty"}
WORLDS = {"xtables", "nft", "ipset", "conntrack"}
MIDDLE = {"migrate", "bans", "keep"}
TOP = "nfkeep"  # the public names, in nfkeep/__init__.py

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "namespaces": {"errors"},
    "model": {"errors"},
    "plenty": set(),
    "xtables": BOTTOM,
    "nft": BOTTOM,
    "ipset": BOTTOM,
    "conntrack": BOTTOM,
    "keep": WORLDS | BOTTOM,
    "bans": {"keep"} | WORLDS | BOTTOM,
    "migrate": {"keep", "bans"} | WORLDS | BOTTOM,
    "testing": BOTTOM,
    "integrations": {TOP} | MIDDLE | BOTTOM,  # written against the public API only: no world
    "service": {TOP} | MIDDLE | BOTTOM,
    "cli": {TOP, "testing", "integrations"} | MIDDLE | WORLDS | BOTTOM,
    TOP: {"testing"} | MIDDLE | WORLDS | BOTTOM,
}
COMPILED = {"_xtables", "_conntrack", "_nft"}
MAY_PRINT = {"cli", "testing"}


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What `source` does that a module of that dotted name must not, as sentences."""
    found = []
    own = _part(module)
    if own not in MAY_IMPORT:
        return [f"{module}: {own!r} belongs to no layer; give it one in MAY_IMPORT"]
    door = module.split(".")[2:3] == ["_ffi"]  # a module, or a package with all that is in it
    tree = ast.parse(source)
    for line, target, names in _imports(tree, module, is_package):
        where = f"{module}:{line}"
        if target.split(".")[0] != "nfkeep":
            continue
        if COMPILED & set(target.split(".")) and not (door and _part(target) == own):
            found.append(f"{where}: {target} is compiled; only nfkeep.{_part(target)}._ffi imports it")
        elif _part(target) != own and _part(target) not in MAY_IMPORT[own]:
            found.append(f"{where}: {own} must not import {target}")
        if names & {"ffi", "lib"} and not door:
            found.append(f"{where}: ffi and lib stay in _ffi modules")
    if own not in MAY_PRINT:
        found += [f"{module}:{call.lineno}: only the commands print" for call in _calls(tree) if _name(call) == "print"]
    return found


GOOD = {
    "a world imports the bottom": ("nfkeep.xtables.text", "from nfkeep.model import Rule"),
    "a world imports itself": ("nfkeep.xtables.text", "from nfkeep.xtables import lock\nfrom . import table"),
    "keep imports all worlds": ("nfkeep.keep.apply", "from nfkeep import xtables, nft, conntrack"),
    "bans imports keep": ("nfkeep.bans.nft", "import nfkeep.keep.hold"),
    "the top imports keep": ("nfkeep", "from nfkeep.keep import transaction"),
    "cli imports the top": ("nfkeep.cli.main", "import nfkeep"),
    "cli imports integrations": ("nfkeep.cli.fail2ban", "from nfkeep.integrations.fail2ban import install"),
    "cli prints": ("nfkeep.cli.main", "print('x')"),
    "the door imports the compiled module": ("nfkeep.xtables._ffi", "from nfkeep.xtables._xtables import ffi, lib"),
    "a part of the door": ("nfkeep.xtables._ffi.tables", "from nfkeep.xtables._xtables import ffi, lib"),
    "the door, relatively": ("nfkeep.conntrack._ffi", "from ._conntrack import ffi, lib"),
    "others are free": ("nfkeep.model", "import attrs, importlib\nimportlib.import_module('json')"),
    "a method called print": ("nfkeep.keep.plan", "console.print('x')"),
    "a name like ours": ("nfkeep.model", "import nfkeep_extras"),
    "a computed import": ("nfkeep.model", "import importlib\nimportlib.import_module(name)"),
}

BAD = {
    "a world imports keep": ("nfkeep.xtables.text", "from nfkeep.keep import plan"),
    "a world imports the top": ("nfkeep.xtables.text", "from nfkeep import Family"),
    "a world imports the top's package": ("nfkeep.xtables.text", "import nfkeep"),
    "a world imports its neighbour": ("nfkeep.xtables.text", "from nfkeep.nft import gate"),
    "as an attribute of the top": ("nfkeep.conntrack.dump", "from nfkeep import xtables"),
    "relatively": ("nfkeep.xtables.text", "from ..keep import plan"),
    "relatively, the name only": ("nfkeep.xtables.text", "from .. import keep"),
    "relatively, from a package": ("nfkeep.xtables", "from ..keep import plan"),
    "by its full name": ("nfkeep.model", "import nfkeep.xtables.text as text"),
    "among others": ("nfkeep.model", "import os, nfkeep.keep, sys"),
    "inside a function": ("nfkeep.keep.plan", "def f():\n    from nfkeep.bans import BanList"),
    "under TYPE_CHECKING": (
        "nfkeep.errors",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nfkeep.keep import Outcome",
    ),
    "in a try": ("nfkeep.nft.gate", "try:\n    import nfkeep.conntrack\nexcept ImportError:\n    pass"),
    "by import_module": ("nfkeep.model", "import importlib\nimportlib.import_module('nfkeep.keep')"),
    "by import_module, imported": (
        "nfkeep.model",
        "from importlib import import_module as load\nload('nfkeep.keep')",
    ),
    "by import_module, by keyword": ("nfkeep.model", "import importlib as i\ni.import_module(name='nfkeep.keep')"),
    "by import_module, relatively": ("nfkeep.xtables.text", "import_module('..keep', 'nfkeep.xtables')"),
    "by import_module, package unknown": ("nfkeep.xtables.text", "import_module('..keep', __package__)"),
    "by __import__": ("nfkeep.model", "__import__('nfkeep.keep.plan')"),
    "errors import the model": ("nfkeep.errors", "from nfkeep.model import Rule"),
    "keep imports bans": ("nfkeep.keep.plan", "from nfkeep import bans"),
    "the top imports cli": ("nfkeep", "def main():\n    import nfkeep.cli"),
    "the top imports integrations": ("nfkeep", "from nfkeep.integrations import vpn"),
    "an integration imports a world": ("nfkeep.integrations.vpn", "from nfkeep import xtables"),
    "bans import integrations": ("nfkeep.bans.nft", "from nfkeep import integrations"),
    "testing imports a world": ("nfkeep.testing.server", "from nfkeep.conntrack import dump"),
    "testing imports the top": ("nfkeep.testing.server", "from nfkeep import Family"),
    "the compiled module past the door": ("nfkeep.xtables.text", "from nfkeep.xtables import _xtables"),
    "the compiled module, directly": ("nfkeep.keep.apply", "import nfkeep.conntrack._conntrack"),
    "another world's compiled module": ("nfkeep.nft._ffi", "from nfkeep.xtables._xtables import lib"),
    "lib through the door": ("nfkeep.xtables.text", "from nfkeep.xtables._ffi import lib"),
    "a print": ("nfkeep.keep.plan", "def f():\n    print('x')"),
    "a part without a layer": ("nfkeep.misc", "x = 1"),
}


@pytest.mark.parametrize(("module", "source"), GOOD.values(), ids=GOOD)
def test_lets_pass(module: str, source: str) -> None:
    """What the layers allow is no fault."""
    assert faults(module, source, is_package=module == "nfkeep") == []


@pytest.mark.parametrize(("module", "source"), BAD.values(), ids=BAD)
def test_finds(module: str, source: str) -> None:
    """Each way to break the layers is found, once."""
    assert len(faults(module, source, is_package=module in {"nfkeep", "nfkeep.xtables"})) == 1


def test_all_of_nfkeep() -> None:
    """No module of the package breaks the layers."""
    spec = importlib.util.find_spec("nfkeep")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    paths = sorted(root.rglob("*.py"))
    assert root / "model.py" in paths
    found = []
    for path in paths:
        parts = ["nfkeep", *path.relative_to(root).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += faults(module, path.read_text(), is_package=is_package)
    assert found == []


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str, set[str]]]:
    """Line, absolute target, and the names taken from it, of every import anywhere in the tree."""
    package = module if is_package else module.rpartition(".")[0]
    loaders = {"import_module", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, set()
        elif isinstance(node, ast.ImportFrom):
            loaders |= {alias.asname for alias in node.names if alias.name == "import_module" and alias.asname}
            base = _absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                # `from nfkeep import keep` means the part; `from nfkeep import Family` means the top
                inner = f"{base}.{alias.name}"
                is_module = (base == "nfkeep" and alias.name in MAY_IMPORT) or alias.name in COMPILED
                yield node.lineno, inner if is_module else base, {alias.name}
    for call in _calls(tree):
        if _name(call) in loaders:
            given = {"name": 0, "package": 1}
            values: dict[str, str] = {}
            for key, position in given.items():
                found = [word.value for word in call.keywords if word.arg == key] + call.args[position : position + 1]
                if found and isinstance(found[0], ast.Constant) and isinstance(found[0].value, str):
                    values[key] = found[0].value
            if "name" in values:
                yield call.lineno, _absolute(values["name"], values.get("package", package)), set()


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name[level:]])])


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(call: ast.Call) -> str:
    """`print` for `print(…)`; for a method only the names that load modules, which `importlib` lends its own."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return "import_module" if isinstance(call.func, ast.Attribute) and call.func.attr == "import_module" else ""


def _part(module: str) -> str:
    """The part of nfkeep that a module belongs to; the top itself is `nfkeep`."""
    return module.split(".")[1] if "." in module else TOP
