"""The programs of this host that know nft, ipset and iptables: what they print, and what they refuse."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import IO, TYPE_CHECKING

from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.keep.interrupts import deferred
from nfkeep.model import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

NFT_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
NFT = ("nft", "-f", "-")
"""nft reading a script."""

_SECONDS = 60.0

held: set[int] = set()
"""The locks, by file descriptor, that a program has until it ends: somebody may kill -9 this process meanwhile."""


def run_nft(script: str, *options: str) -> str:
    """Have nft read a script: all of it is done, or nothing. Raises NfkeepError with nft's words."""
    return run_tool([*NFT, *options], script)


def run_tool(command: Sequence[str], text: str = "") -> str:
    """What a program prints that is given this text. Raises NfkeepError with its words, if it fails."""
    with Running(command, text) as running:
        return running.result()


class Running:
    """A program at work, which is given a text. A context manager: left when the program has ended.

    Entering it raises UnsupportedError if there is no such program. Ctrl-C is put off until it is left: interrupted,
    nobody would know what the program does after that, and what it has done would come after all was undone.
    """

    def __init__(self, command: Sequence[str], text: str = "") -> None:
        self._command, self._name, self._text = command, command[0], text

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(deferred())
            # Files, not pipes: nobody has to serve those.
            self._printed = stack.enter_context(_in_memory())
            self._process = stack.enter_context(self._started())  # which is waited for
            self._stack = stack.pop_all()
        return self

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            with _in_memory(self._text) as given:
                return subprocess.Popen(
                    self._command, stdin=given, stdout=self._printed, stderr=subprocess.PIPE, pass_fds=tuple(held)
                )
        except FileNotFoundError:
            raise UnsupportedError(f"there is no command {self._name} here", self._name) from None

    def has_ended(self) -> bool:
        """Whether nothing has to be waited for."""
        return self._process.poll() is not None

    def result(self) -> str:
        """What it has printed, in the end. Raises NfkeepError with its words, if it failed."""
        said = self._wait()
        if not self._process.returncode:
            self._printed.seek(0)
            return self._printed.read().decode(errors="surrogateescape")
        words = said.decode(errors="replace").strip()
        if "Operation not permitted" in words or "must be root" in words:
            raise PermissionDeniedError(f"running {self._name}", "root, or the capability CAP_NET_ADMIN")
        raise NfkeepError(f"{self._name}: {words or f'exit status {self._process.returncode}'}")

    def _wait(self) -> bytes:
        try:
            return self._process.communicate(timeout=_SECONDS)[1]
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise NfkeepError(f"{self._name} did not end within {_SECONDS:.0f} seconds") from None

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self._process.returncode is None:  # whoever comes next may look at what it does
                with contextlib.suppress(NfkeepError):
                    self._wait()


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
