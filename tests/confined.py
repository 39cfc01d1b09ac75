"""Runs nfkeepd as confined as its unit has it: `python confined.py ARGUMENTS…`, as the user that it is for.

There is no systemd in a test: what it would do about system calls and memory is done here, by what the unit says.
"""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

UNIT = Path(__file__).parents[1] / "packaging" / "systemd" / "nfkeepd.service"
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_ALLOW, _EPERM, _EAFNOSUPPORT = 0x7FFF0000, 0x00050001, 0x00050061
_FIRST, _THIRD = 16, 32  # where struct seccomp_data has arguments
_WRITE, _EXECUTE = 2, 4

Program = list[tuple[int, int, int, int]]


def members(group: str) -> Iterator[str]:
    """The system calls of one of systemd's groups."""
    command = ["systemd-analyze", "syscall-filter", group]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            yield from members(word)
        elif word and not word.startswith("#"):
            yield word


def allowed() -> set[str]:
    """The system calls that SystemCallFilter= leaves, as systemd.exec(5) reads it."""
    found: set[str] = set()
    for words in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        named = {each for word in words.removeprefix("~").split() for each in members(word)}
        found = found - named if words.startswith("~") else found | named
    return found


def program() -> Program:
    """What RestrictAddressFamilies=, MemoryDenyWriteExecute= and SystemCallFilter= come to."""
    text = UNIT.read_text()
    assert "\nRestrictAddressFamilies=AF_UNIX AF_NETLINK\n" in text
    assert "\nMemoryDenyWriteExecute=yes\n" in text
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
    found: Program = [(_LOAD, 0, 0, 0)]
    found += [(_EQUAL, 0, 5, numbers["socket"]), (_LOAD, 0, 0, _FIRST), (_EQUAL, 2, 0, 1), (_EQUAL, 1, 0, 16)]
    found += [(_RETURN, 0, 0, _EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    found += [(_EQUAL, 0, 5, numbers["mmap"]), (_LOAD, 0, 0, _THIRD)]
    found += [(_ANY_BIT, 0, 2, _EXECUTE), (_ANY_BIT, 0, 1, _WRITE), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for name in ("mprotect", "pkey_mprotect"):
        found += [(_EQUAL, 0, 4, numbers[name]), (_LOAD, 0, 0, _THIRD)]
        found += [(_ANY_BIT, 0, 1, _EXECUTE), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for name in sorted(allowed() & {*numbers}):
        found += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ALLOW)]
    return [*found, (_RETURN, 0, 0, _EPERM)]


def confine() -> None:
    """Confine this process; there is no way back."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program()))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filters) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


if __name__ == "__main__":
    confine()
    from nfkeep.service import main  # from here on, as what comes before is not confined

    sys.exit(main())
