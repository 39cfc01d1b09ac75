"""Shows a test what a thread is about to send, before the kernel sees it, and lets the test change it. x86-64 only.

By seccomp user notification (linux/seccomp.h): each sendto(2) of that thread waits until the test has looked.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SENDTO, _SECCOMP, _PRCTL_NO_NEW_PRIVS = 44, 317, 38
_SET_MODE_FILTER, _NEW_LISTENER, _CONTINUE = 1, 8, 1
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_PROGRAM = (
    (0x20, 0, 0, 0),  # load the number of the system call
    (0x15, 0, 1, _SENDTO),
    (0x06, 0, 0, 0x7FC00000),  # SECCOMP_RET_USER_NOTIF
    (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
)


def watch_sends(work: Callable[[], T], look: Callable[[memoryview], None]) -> T:
    """What `work` returns, or raises, called in a thread of its own; `look` is shown the bytes of each sendto first.

    What `look` writes there is what the kernel gets.
    """
    outcome: list[Callable[[], T]] = []
    listeners: list[int] = []
    ready = threading.Event()

    def run() -> None:
        try:
            listeners.append(_listen())
        finally:
            ready.set()
        try:
            value = work()
            outcome.append(lambda: value)
        except Exception as error:
            outcome.append(_raiser(error))

    thread = threading.Thread(target=run, name="watched")
    thread.start()
    ready.wait()
    try:
        _serve(listeners[0], look)
    finally:
        os.close(listeners[0])  # whatever is still to be sent now fails with ENOSYS
        thread.join()
    return outcome[0]()


def _raiser(error: Exception) -> Callable[[], T]:
    def again() -> T:
        raise error

    return again


def _listen() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _PROGRAM))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(_PROGRAM), ctypes.addressof(code)))
    assert libc.prctl(_PRCTL_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    listener: int = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, filters)
    assert listener >= 0, os.strerror(ctypes.get_errno())
    return listener


def _serve(listener: int, look: Callable[[memoryview], None]) -> None:
    """Until the thread has ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        events = poll.poll(10_000)
        assert events, "the watched thread hangs"
        if not events[0][1] & select.POLLIN:
            return
        request = bytearray(80)  # struct seccomp_notif: id, pid, flags, and from 16 on struct seccomp_data
        fcntl.ioctl(listener, _RECEIVE, request)
        address, length = struct.unpack_from("=QQ", request, 16 + 16 + 8)  # arguments 1 and 2
        look(memoryview((ctypes.c_char * length).from_address(address)).cast("B"))
        fcntl.ioctl(listener, _ANSWER, struct.pack("=QqiI", *struct.unpack_from("=Q", request), 0, 0, _CONTINUE))
