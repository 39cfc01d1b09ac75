"""Builds nfkeep.xtables._xtables: libiptc for tables, libxtables for rule text, behind a small C surface."""

import pathlib

from cffi import FFI

HERE = pathlib.Path(__file__).resolve().parent

ffi = FFI()
ffi.cdef((HERE / "xtables_cdef.h").read_text())
ffi.set_source(
    "nfkeep.xtables._xtables",
    '#include "xtables_world.h"\n',
    sources=["csrc/xtables_text.c", "csrc/xtables_options.c", "csrc/xtables_table.c", "csrc/xtables_scan.c"],
    include_dirs=["csrc"],
    depends=["csrc/xtables_world.h", "csrc/xtables_text.h", "csrc/xtables_cdef.h", "csrc/xtables_table.h"],
    libraries=["ip4tc", "ip6tc", "xtables"],
    extra_compile_args=["-Wall", "-Wextra", "-O2"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(HERE.parent), verbose=True)
