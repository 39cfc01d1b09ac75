"""Builds nfkeep.xtables._xtables: libiptc for tables, libxtables for rule text, behind a small C surface."""

import pathlib
import subprocess

from cffi import FFI

HERE = pathlib.Path(__file__).resolve().parent


def extensions_folder() -> str:
    """Where the installed libxtables has its extensions."""
    asked = subprocess.run(["pkg-config", "--variable=xtlibdir", "xtables"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


ffi = FFI()
ffi.cdef((HERE / "xtables_api.h").read_text())
ffi.set_source(
    "nfkeep.xtables._xtables",
    '#include "xtables_world.h"\n',
    sources=[
        "csrc/xtables_text.c",
        "csrc/xtables_print.c",
        "csrc/xtables_options.c",
        "csrc/xtables_targets.c",
        "csrc/xtables_table.c",
        "csrc/xtables_commit.c",
        "csrc/xtables_scan.c",
        "csrc/xtables_recent.c",
        "csrc/xtables_watch.c",
    ],
    include_dirs=["csrc"],
    depends=["csrc/xtables_world.h", "csrc/xtables_text.h", "csrc/xtables_api.h", "csrc/xtables_table.h"],
    define_macros=[("NFK_XTABLES_LIBDIR", f'"{extensions_folder()}"')],
    libraries=["ip4tc", "ip6tc", "xtables"],
    extra_compile_args=["-Wall", "-Wextra", "-O2"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(HERE.parent), verbose=True)
