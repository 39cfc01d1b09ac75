"""The programs of this host that know nft, ipset and iptables: what they print, and what they refuse."""

from __future__ import annotations

import os
import subprocess
from typing import IO, TYPE_CHECKING

from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.keep.interrupts import deferred
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

NFT_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_SECONDS = 60.0

held: set[int] = set()
"""The locks, by file descriptor, that a program has until it ends: somebody may kill -9 this process meanwhile."""


def run_nft(script: str, *options: str) -> str:
    """Have nft read a script: all of it is done, or nothing. Raises NfkeepError with nft's words."""
    return run_tool(["nft", *options, "-f", "-"], script)


def run_tool(command: Sequence[str], text: str = "") -> str:
    """What a program prints that is given this text. Raises NfkeepError with its words, if it fails."""
    # Files, not pipes: those have to be served, by a thread that others keep waiting.
    # Interrupted, nobody would know what a program does after that: it is waited for.
    with deferred(), _in_memory(text) as given, _in_memory() as printed:
        done = _run(command, given, printed)
        if not done.returncode:
            printed.seek(0)
            return printed.read().decode(errors="surrogateescape")
    said = done.stderr.decode(errors="replace").strip()
    if "Operation not permitted" in said or "must be root" in said:
        raise PermissionDeniedError(f"running {command[0]}", "root, or the capability CAP_NET_ADMIN")
    raise NfkeepError(f"{command[0]}: {said or f'exit status {done.returncode}'}")


def _run(command: Sequence[str], given: IO[bytes], printed: IO[bytes]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command, stdin=given, stdout=printed, stderr=subprocess.PIPE, timeout=_SECONDS, check=False,
            pass_fds=tuple(held),
        )  # fmt: skip
    except FileNotFoundError:
        raise UnsupportedError(f"there is no command {command[0]} here", command[0]) from None
    except subprocess.TimeoutExpired:
        raise NfkeepError(f"{command[0]} did not end within {_SECONDS:.0f} seconds") from None


def _in_memory(text: str = "") -> IO[bytes]:
    file = open(os.memfd_create("nfkeep"), "w+b")  # noqa: SIM115 (the caller closes it)
    file.write(text.encode(errors="surrogateescape"))
    file.seek(0)
    return file


def restore_iptables(variant: str, family: Family, text: str) -> None:
    """Have a variant of iptables, "legacy" or "nft", load iptables-save text with its counters."""
    name = "ip6tables" if family is Family.IPV6 else "iptables"
    wait = ["-w", "60"] if variant == "legacy" else []  # the other one has no lock
    run_tool([f"{name}-{variant}-restore", "-c", *wait], text)
