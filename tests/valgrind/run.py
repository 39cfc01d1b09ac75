"""Runs drive.py under valgrind and fails for what concerns our own code: `run.py FOLDER`.

CPython looks at memory that was never written (the digit of an int that is zero) and does not free all that it has, in
more places than suppressions could name. What counts is whether a stack, of the error or of where the value came from,
comes to our modules or libxtables before it comes to Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import nfkeep

PYTHON = (os.path.realpath(sys.executable), "libpython", "_cffi_backend")
OURS = (str(Path(nfkeep.__file__).parent), "/xtables/lib", "/libxtables.so")


def main() -> int:
    folder = Path(sys.argv[1])
    if shutil.which("valgrind") is None:
        subprocess.run(
            ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", "valgrind", "libc6-dbg"], check=True
        )
    for old in folder.glob("*.xml"):
        old.unlink()
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "XTABLES_LOCKFILE": str(folder / "lock"),
                   "NFKEEP_RUN_DIRECTORY": str(folder / "run")}  # fmt: skip
    command = ["valgrind", "--quiet", "--track-origins=yes", "--num-callers=20", "--leak-check=full",
               "--show-leak-kinds=definite", "--xml=yes", f"--xml-file={folder}/%p.xml"]  # fmt: skip
    process = subprocess.Popen([*command, sys.executable, Path(__file__).with_name("drive.py")], env=environment)
    if process.wait():
        print(f"the program itself failed: exit status {process.returncode}")
        return 1
    reports = sorted(folder.glob("*.xml"))
    # A child that was forked and has ended at once owns nothing: only the first process is asked for what it lost.
    found = [text for path in reports for text in errors(path, leaks=path.stem == str(process.pid))]
    print("\n\n".join(found) or f"nothing to complain about in {len(reports)} processes")
    return bool(found or not reports)


def errors(path: Path, *, leaks: bool) -> list[str]:
    """What valgrind says of our code, as text."""
    found = []
    for error in xml.parse(path).getroot().iter("error"):
        kind = error.findtext("kind", "")
        if (leaks or not kind.startswith("Leak_")) and any(is_ours(stack) for stack in error.iter("stack")):
            what = error.findtext("what") or error.findtext("xwhat/text") or kind
            found.append("\n    ".join([what, *map(text_of, error.iter("frame"))]))
    return found


def is_ours(stack: xml.Element) -> bool:
    for frame in stack.iter("frame"):
        name = frame.findtext("obj", "")
        if any(part in name for part in OURS):
            return True
        if any(part in name for part in PYTHON):
            return False
    return False


def text_of(frame: xml.Element) -> str:
    place = frame.findtext("file") or frame.findtext("obj")
    return f"{frame.findtext('fn', '?')} ({place}:{frame.findtext('line', '?')})"


if __name__ == "__main__":
    sys.exit(main())
