"""nfkeepd as tests start it, in a namespace, and clients that talk to it with this process's uid or another one.

Its files are in a directory of its own that every user can reach, as the socket is to be found there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep import BanList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

NFKEEPD = (sys.executable, "-c", "import sys; from nfkeep.service import main; sys.exit(main())")
STRANGER = 54_321  # a uid and a gid that nobody has
ALL = "operations = ban, ban_many, unban, contains, bans"
OPEN_TO_ROOT = f"[nfkeepd]\nrate = 100000/s\n[list web]\nusers = 0\nbackend = nft\nrate = 10000/s\n{ALL}\n"


class Client:
    """A connection to the daemon, with this process's uid."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def ask(self, op: str, list_: str | None = None, **fields: object) -> dict[str, Any]:
        """One request, and its answer without the id, which is checked."""
        named = {} if list_ is None else {"list": list_}
        self.socket.sendall(json.dumps({"id": "a", "op": op, **named, **fields}).encode() + b"\n")
        answer = self.read()
        assert answer is not None
        assert answer.pop("id") == "a"
        return answer

    def read(self) -> dict[str, Any] | None:
        """The next answer, or None if there will be none."""
        try:
            line = self._file.readline()
        except ConnectionResetError:  # it was closed with something unread
            return None
        if not line:
            return None
        assert line.endswith(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@attrs.define
class Daemon:
    """nfkeepd in a namespace, with its files in a directory that everybody can reach."""

    namespace: Namespace
    folder: Path
    process: subprocess.Popen[str] | None = None
    notified: socket.socket = attrs.Factory(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    clients: list[Client] = attrs.Factory(list)

    @classmethod
    @contextlib.contextmanager
    def made(cls, namespace: Namespace) -> Iterator[Daemon]:
        """One that is not started yet; in the end its files are gone (and with the namespace its process)."""
        folder = Path(tempfile.mkdtemp(prefix="nfkd", dir="/tmp"))  # the path of a socket is short
        folder.chmod(0o755)
        daemon = cls(namespace, folder)
        try:
            yield daemon
        finally:
            for client in daemon.clients:
                client.close()
            daemon.notified.close()
            shutil.rmtree(folder)

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def configure(self, text: str) -> None:
        """Write the configuration; the socket is put into it."""
        head = f"[nfkeepd]\nsocket = {self.socket}\n"
        text = text.replace("[nfkeepd]\n", head) if "[nfkeepd]\n" in text else head + text
        (self.folder / "conf").write_text(text)

    def start(
        self,
        text: str | None = None,
        *,
        before: tuple[str, ...] = (),
        command: tuple[str, ...] = NFKEEPD,
        wait: bool = True,
    ) -> Daemon:
        """Start it, and return when it says that it is ready (or not wait for that)."""
        if text is not None:
            self.configure(text)
        notify = self.folder / "n"
        if not notify.exists():
            self.notified.bind(str(notify))
            self.notified.settimeout(0.1)
            notify.chmod(0o666)
        with (self.folder / "log").open("a") as log:
            self.process = self.namespace.popen(
                [*before, *command, "--config", str(self.folder / "conf")],
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
            )
        while wait and not self.hears("READY=1"):
            assert self.process.poll() is None, self.log
        return self

    def hears(self, state: str) -> bool:
        """Whether the daemon now tells systemd of this state; what it told before that is forgotten."""
        with contextlib.suppress(TimeoutError):
            while self.notified.recv(100).decode() != state:
                pass
            return True
        return False

    def connect(self) -> Client:
        self.clients.append(Client(self.socket))
        return self.clients[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def bans(self, name: str = "web") -> set[str]:
        """What the kernel has."""
        with self.namespace, BanList(name, "nft") as bans:
            return {str(ban.address) for ban in bans}


def talk(
    daemon: Daemon, requests: list[dict[str, object]], uid: int, gid: int, *groups: int
) -> list[dict[str, Any]] | None:
    """The answers to what a process with this uid and these groups asks; None if it cannot even connect."""
    lines = "".join(json.dumps(each) + "\n" for each in requests)
    words = [sys.executable, "-c", _TALK, str(daemon.socket), str(uid), ",".join(map(str, (gid, *groups)))]
    done = subprocess.run(words, input=lines, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        assert "PermissionError" in done.stderr
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def ban(address: str, name: str = "web", **fields: object) -> dict[str, object]:
    return {"op": "ban", "list": name, "address": address, **fields}


def kind(answer: dict[str, Any] | None) -> str:
    """Of the error that an answer tells of."""
    assert answer is not None
    assert answer["ok"] is False
    found: str = answer["error"]["kind"]
    return found


_TALK = """
import os, socket, sys
path, uid, groups = sys.argv[1], int(sys.argv[2]), [int(each) for each in sys.argv[3].split(",")]
said = sys.stdin.buffer.read()
os.setgroups(groups[1:]); os.setresgid(groups[0], groups[0], groups[0]); os.setresuid(uid, uid, uid)
talking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
talking.connect(path)
talking.sendall(said)
talking.shutdown(socket.SHUT_WR)
while heard := talking.recv(65536):
    sys.stdout.buffer.write(heard)
"""
