"""A real fail2ban in a namespace, with a configuration of its own and a log file that tests write to.

Its jails ban whom a line `knock from ADDRESS` names, at once. Nothing of the host's fail2ban is used but its programs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen

import nfkeep
from nfkeep.integrations.fail2ban.interpreter import fail2ban_python
from nfkeep.testing import Namespace, wait_until

KNOCK = r"""
[Definition]
failregex = ^\s*knock from <HOST>$
datepattern = ^EPOCH
"""


def nfkeep_command(directory: Path) -> Path:
    """The command `nfkeep` with the nfkeep that is tested, whatever directory it is called from."""
    script = directory / "bin" / "nfkeep"
    script.parent.mkdir(exist_ok=True)
    parent = Path(nfkeep.__file__).parents[1]
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.append({str(parent)!r})\n"
        "from nfkeep.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return script


class Fail2ban:
    """One fail2ban: `root`/etc/fail2ban is its configuration; started by `start`, and killed with its namespace."""

    def __init__(self, namespace: Namespace, root: Path) -> None:
        self.namespace = namespace
        self.root = root
        self.config = root / "etc" / "fail2ban"
        self.log = root / "fail2ban.log"
        self.database = root / "fail2ban.sqlite3"
        self.environment = dict(os.environ)
        self._process: Popen[str] | None = None
        if not self.config.exists():
            shutil.copytree("/etc/fail2ban", self.config, symlinks=True)
            for folder in ("jail.d", "fail2ban.d"):
                for file in (self.config / folder).iterdir():
                    file.unlink()
        (self.config / "filter.d" / "knock.conf").write_text(KNOCK)
        (self.config / "fail2ban.local").write_text(
            f"[DEFAULT]\nloglevel = INFO\nlogtarget = {self.log}\ndbfile = {self.database}\n"
        )

    def use_iptables(self, world: str) -> None:
        """Have `iptables` be that of the "legacy" tables, or of "nft", whatever it is on this host."""
        links = self.root / "sbin"
        links.mkdir()
        for name in ("iptables", "ip6tables", "iptables-save", "iptables-restore"):
            (links / name).symlink_to(f"/usr/sbin/xtables-{world}-multi")
        self.environment["PATH"] = f"{links}:{os.environ['PATH']}"

    def set_up(self, jails: Mapping[str, str], **defaults: str) -> None:
        """Write jail.local: for each jail its lines, and for all of them what else is given, as `bantime="600"`.

        Every jail has a log file of its own.
        """
        common = {
            "bantime": "600",
            "findtime": "600",
            "maxretry": "1",
            "ignoreself": "false",
            "filter": "knock",
            "backend": "polling",
            "logpath": f"{self.root}/%(__name__)s.log",
            "usedns": "no",
        } | {name.replace("__", "."): value for name, value in defaults.items()}
        text = "[DEFAULT]\n" + "".join(f"{name} = {value}\n" for name, value in common.items())
        for name, lines in jails.items():
            text += f"[{name}]\nenabled = true\n{lines}\n"
            (self.root / f"{name}.log").touch()
        (self.config / "jail.local").write_text(text)

    def start(self, timeout: float = 20.0) -> None:
        """Start the server and wait until all of its jails have started."""
        since = len(self.said())
        command = ["fail2ban-server", *self._where, "-p", str(self.root / "pid"), "-f", "start"]
        self._process = self.namespace.popen(command, stdout=DEVNULL, stderr=DEVNULL, env=self.environment)
        jails = (self.config / "jail.local").read_text().count("enabled = true")

        def started() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            return self.said()[since:].count("' started") == jails

        assert wait_until(started, timeout, 0.05), self.said()[since:]

    def stop(self, timeout: float = 30.0) -> None:
        """Stop the server as systemd does, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout)

    def kill(self) -> None:
        """End the server by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        (self.root / "sock").unlink(missing_ok=True)

    def client(self, *words: str, timeout: float = 60.0) -> CompletedProcess[str]:
        """Run fail2ban-client."""
        return self.namespace.run(["fail2ban-client", *self._where, *words], timeout=timeout)

    def knock(self, *addresses: object, jail: str = "one") -> None:
        """Have hosts misbehave now, as a jail sees it."""
        with (self.root / f"{jail}.log").open("a") as file:
            file.write("".join(f"{time.time():.0f} knock from {address}\n" for address in addresses))

    def banned(self, jail: str) -> set[str]:
        """Whom the jail bans, by its own word."""
        return set(self.client("get", jail, "banip").stdout.split())

    def has_persisted(self, address: object) -> bool:
        """Whether a ban is in the database, which the server writes a moment after the ban."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return bool(connection.execute("SELECT 1 FROM bips WHERE ip = ?", (str(address),)).fetchall())

    def said(self) -> str:
        """The log."""
        return self.log.read_text() if self.log.exists() else ""

    def persist(self, jail: str, addresses: Iterable[object], bantime: int = 600) -> None:
        """Put bans into the database, as the server, which is not running, has left them there."""
        if not self.database.exists():
            make = f"from fail2ban.server.database import Fail2BanDb; Fail2BanDb({str(self.database)!r}).close()"
            self.namespace.run([fail2ban_python(Path("/")), "-c", make])
        rows = [(str(address), jail, int(time.time()) - 10, bantime, 1, "{}") for address in addresses]
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("INSERT OR IGNORE INTO jails(name, enabled) VALUES(?, 1)", (jail,))
            for table in ("bips", "bans"):
                connection.executemany(
                    f"INSERT INTO {table}(ip, jail, timeofban, bantime, bancount, data) VALUES(?, ?, ?, ?, ?, ?)", rows
                )

    @property
    def _where(self) -> list[str]:
        return ["-c", str(self.config), "-s", str(self.root / "sock")]


class Probe:
    """Asks a UDP echo server every few milliseconds from several addresses, and counts what is answered.

    Runs from its making to `stop()`, in a thread of its own.
    """

    def __init__(self, namespace: Namespace, sources: Iterable[object], server: object, port: int) -> None:
        self.asked = self.answered = 0
        self.first_answer = self.last_answer = 0.0  # on the monotonic clock
        family = socket.AF_INET6 if ":" in str(server) else socket.AF_INET
        self._sockets = []
        with namespace:
            for source in sources:
                asking = socket.socket(family, socket.SOCK_DGRAM)
                asking.bind((str(source), 0))
                asking.setblocking(False)
                self._sockets.append(asking)
        self._to = (str(server), port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, asked: int, timeout: float = 10.0) -> bool:
        """Wait until so many more have been asked."""
        goal = self.asked + asked
        return wait_until(lambda: self.asked >= goal, timeout)

    def stop(self) -> int:
        """Stop; how many were answered."""
        self._stop.set()
        self._thread.join()
        for asking in self._sockets:
            asking.close()
        return self.answered

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            for asking in self._sockets:
                with contextlib.suppress(OSError):  # nothing there, or refused by ICMP, which is no answer
                    asking.sendto(b"?", self._to)
                self.asked += 1
                with contextlib.suppress(OSError):
                    asking.recv(16)
                    self.last_answer = time.monotonic()
                    self.first_answer = self.first_answer or self.last_answer
                    self.answered += 1


def is_installed() -> bool:
    """Whether fail2ban is there at all."""
    return shutil.which("fail2ban-server") is not None and os.path.isdir("/etc/fail2ban")
