"""Has chosen system calls fail in this process, to see real code meet a real errno. x86-64 only."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

SOCKET, SETSOCKOPT = 41, 54
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_ARGUMENTS = 16  # where struct seccomp_data has them


def forbid(number: int, arguments: dict[int, int], errno: int) -> None:
    """From here on system call `number` with these arguments (by place) gives `errno`. There is no way back."""
    tests = [(0, number), *((_ARGUMENTS + 8 * place, value) for place, value in arguments.items())]
    program = []
    for i, (offset, value) in enumerate(tests):
        beyond = 2 * (len(tests) - 1 - i) + 1  # over the remaining tests and the errno
        program += [(_LOAD, 0, 0, offset), (_EQUAL, 0, beyond, value)]
    program += [(_RETURN, 0, 0, _ERRNO | errno), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filters) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def environment() -> dict[str, str]:
    """The environment for a process that is to import this module; nothing else is found that was not before."""
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}  # an empty one is the current folder
