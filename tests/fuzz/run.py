"""Fuzzes every decoder of what the kernel says: `run.py FOLDER`, for $NFKEEP_FUZZ_SECONDS in all (120 by default).

Each harness of this folder is compiled with the C files that it is about and with the sanitizers; seeds come from the
running kernel. An input that a decoder does not survive is left in FOLDER, and the command to try it again is printed.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

from nfkeep.errors import UnsupportedError
from nfkeep.xtables import recent

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
GCC = ["gcc", "-g", "-std=gnu11", "-Wall", "-Wextra", f"-I{CSRC}", f"-I{HERE}"]
SANITIZED = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
KERNEL = [str(HERE / "kernel.c"), "-Wl,--wrap=sendto,--wrap=recvmmsg"]
TABLES = ["-Wl,--wrap=socket,--wrap=close,--wrap=getsockopt,--wrap=setsockopt", "-lxtables"]

#: By harness: its seeds, the C files under test, and what else it is linked with.
HARNESSES = {
    "tables": ("tables", "xtables_*.c", TABLES),
    "walk": ("tables", "xtables_walk*.c", []),
    "conntrack": ("conntrack", "conntrack_*.c netlink.c", KERNEL),
    "nft": ("nft", "nft_*.c netlink.c", KERNEL),
    "addresses": ("addresses", "nft_*.c netlink.c", []),
    "rules": ("rules", "nft_*.c netlink.c", []),
}


def main() -> int:
    folder = Path(sys.argv[1])
    seconds = float(os.environ.get("NFKEEP_FUZZ_SECONDS", "120")) / (len(HARNESSES) + 1)
    chance = random.randrange(1 << 32)
    subprocess.run([sys.executable, HERE / "seeds.py", folder], check=True)
    print(f"random seed {chance}, {seconds:.0f} s each", flush=True)
    failed = [name for name in HARNESSES if not fuzz(name, folder, seconds, chance)]
    if not fuzz_recent(folder, seconds, chance):
        failed.append("recent")
    print(f"failed: {', '.join(failed)}" if failed else "all survived")
    return bool(failed)


def fuzz(name: str, folder: Path, seconds: float, chance: int) -> bool:
    program, tried = build(name, folder), folder / f"{name}.input"
    kept = folder / HARNESSES[name][0]
    seeds = sorted(kept.iterdir())
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    print(f"{name}: ", end="", flush=True)
    done = subprocess.run([program, str(seconds), str(chance), tried, *seeds], env=environment, check=False)
    if done.returncode:
        print(f"{name} ended with {done.returncode}; again: {shlex.quote(str(program))} again 0 {tried} {kept}/*")
    return not done.returncode


def build(name: str, folder: Path) -> Path:
    """The harness as a program. The engine itself is not watched."""
    _, files, extra = HARNESSES[name]
    sources = [HERE / f"{name}.c", *(path for pattern in files.split() for path in CSRC.glob(pattern))]
    engine, program = folder / "engine.o", folder / f"fuzz-{name}"
    libraries = subprocess.run(
        ["pkg-config", "--variable=xtlibdir", "xtables"], text=True, stdout=-1, check=True
    ).stdout
    subprocess.run([*GCC, "-O2", "-c", HERE / "engine.c", "-o", engine], check=True)
    watched = [*SANITIZED, "-fsanitize-coverage=trace-pc", f'-DNFK_XTABLES_LIBDIR="{libraries.strip()}"']
    subprocess.run([*GCC, *watched, *sources, engine, *extra, "-o", program], check=True)
    return program


def fuzz_recent(folder: Path, seconds: float, chance: int) -> bool:
    """`recent.parse` gives addresses or raises UnsupportedError, whatever /proc says."""
    generator, tries, end = random.Random(chance), 0, time.monotonic() + seconds
    (seed,) = (path.read_bytes() for path in (folder / "recent").iterdir())
    while time.monotonic() < end:
        text = bytearray(seed)
        for _ in range(generator.choice([1, 1, 2, 4, 16])):
            at = generator.randrange(len(text) + 1)
            some = generator.choice(
                [b"", b"\n", b" ", b"\0", b":", b".", b"0", b"9" * 30, generator.randbytes(3), seed[:at]]
            )
            text[at : at + generator.choice([0, 0, 1, 5, 50])] = some
        tries += 1
        try:
            found = recent.parse(bytes(text))
        except UnsupportedError:
            continue
        except Exception as error:
            (folder / "recent.input").write_bytes(text)
            print(f"recent: {error!r} for what is in {folder / 'recent.input'}")
            return False
        if not all(len(address) in (4, 16) and seen >= 0 for address, seen in found.items()):
            print(f"recent: {found!r} for {bytes(text)!r}")
            return False
    print(f"recent: {tries} inputs")
    return True


if __name__ == "__main__":
    sys.exit(main())
