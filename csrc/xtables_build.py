"""Builds nfkeep.xtables._xtables: the kernel's tables, and libxtables for rule text, behind a small C surface."""

import pathlib
import subprocess

from cffi import FFI

HERE = pathlib.Path(__file__).resolve().parent


def extensions_folder() -> str:
    """Where the installed libxtables has its extensions."""
    asked = subprocess.run(["pkg-config", "--variable=xtlibdir", "xtables"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


ffi = FFI()
probe = (HERE / "probe.h").read_text().splitlines()
ffi.cdef("\n".join(line for line in probe if not line.startswith("#")))
ffi.cdef((HERE / "xtables_api.h").read_text())
ffi.set_source(
    "nfkeep.xtables._xtables",
    '#include "xtables_world.h"\n',
    sources=[
        "csrc/xtables_text.c",
        "csrc/xtables_print.c",
        "csrc/xtables_save.c",
        "csrc/xtables_options.c",
        "csrc/xtables_targets.c",
        "csrc/xtables_block.c",
        "csrc/xtables_image.c",
        "csrc/xtables_chains.c",
        "csrc/xtables_table.c",
        "csrc/xtables_load.c",
        "csrc/xtables_commit.c",
        "csrc/xtables_scan.c",
        "csrc/xtables_lock.c",
        "csrc/xtables_change.c",
        "csrc/xtables_recent.c",
        "csrc/xtables_walk.c",
        "csrc/xtables_walk_conntrack.c",
        "csrc/xtables_walk_flows.c",
        "csrc/xtables_walk_image.c",
        "csrc/xtables_walk_matches.c",
        "csrc/xtables_walk_step.c",
        "csrc/xtables_walk_targets.c",
        "csrc/xtables_walk_ways.c",
        "csrc/xtables_watch.c",
    ],
    include_dirs=["csrc"],
    depends=[
        f"csrc/{name}.h"
        for name in (
            "probe",
            *(f"xtables_{part}" for part in ("api", "block", "image", "table", "text", "walk", "world")),
        )
    ],
    define_macros=[("NFK_XTABLES_LIBDIR", f'"{extensions_folder()}"')],
    libraries=["xtables"],
    extra_compile_args=["-Wall", "-Wextra", "-O2"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(HERE.parent), verbose=True)
