"""Builds nfkeep.conntrack._conntrack: the cdef is csrc/conntrack_api.h itself, so that C and Python always agree."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
PARTS = (
    "exchange",
    "flows",
    "guard",
    "kill",
    "match",
    "messages",
    "netlink",
    "packets",
    "prime",
    "probes",
    "repair",
    "routes",
    "select",
)

ffi = FFI()
for header in ("probe.h", "conntrack_api.h"):
    ffi.cdef("\n".join(line for line in (HERE / header).read_text().splitlines() if not line.startswith("#")))
ffi.set_source(
    "nfkeep.conntrack._conntrack",
    '#include "conntrack.h"',
    sources=["csrc/netlink.c", *(f"csrc/conntrack_{part}.c" for part in PARTS)],
    include_dirs=["csrc"],
    depends=[
        f"csrc/{name}" for name in ("netlink.h", "probe.h", "conntrack.h", "conntrack_api.h", "conntrack_prime.h")
    ],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=True)
