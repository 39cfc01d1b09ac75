"""Builds nfkeep.nft._nft: the cdef is csrc/nft_api.h itself, so that C and Python always agree."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffi = FFI()
ffi.cdef("\n".join(line for line in (HERE / "nft_api.h").read_text().splitlines() if not line.startswith("#")))
ffi.set_source(
    "nfkeep.nft._nft",
    '#include "nft_api.h"',
    sources=[
        "csrc/netlink.c",
        "csrc/nft_addresses.c",
        "csrc/nft_elements.c",
        "csrc/nft_dump.c",
        "csrc/nft_rules.c",
    ],
    include_dirs=["csrc"],
    depends=["csrc/netlink.h", "csrc/nft_api.h", "csrc/nft_set.h"],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=True)
