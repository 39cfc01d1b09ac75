"""nfkeepd starts, stops, is killed, reloaded and confined, finds its list gone; bans stay in force through all of it.

It runs here as systemd runs it: with one right, and a socket that is passed to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confined import HEADER
from nfkeepd import NFKEEPD, OPEN_TO_ROOT, Client, Daemon

from nfkeep import BanList
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

UNPRIVILEGED = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
    *("--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--bounding-set=-all,+net_admin"),
)
SPARSE_PROC = (  # ProtectProc=invisible, ProcSubset=pid
    *("unshare", "--mount", "sh", "-c"),
    'mount -t proc -o hidepid=invisible,subset=pid proc /proc && exec "$@"',
    "sh",
)


@pytest.fixture
def daemon(namespace: Namespace) -> Iterator[Daemon]:
    with Daemon.made(namespace) as made:
        yield made


class TestLife:
    def test_stopping_leaves_the_bans(self, daemon: Daemon) -> None:
        """After SIGTERM the bans are in force, clients see the end, the socket file is gone, and a new start adopts."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        assert client.ask("ban", "web", address="203.0.113.1")["ok"]
        assert daemon.stop() == 0
        assert client.read() is None
        assert not daemon.socket.exists()
        assert daemon.bans() == {"203.0.113.1"}
        daemon.start()
        assert daemon.connect().ask("contains", "web", address="203.0.113.1")["contains"]
        assert daemon.stop(signal.SIGINT) == 0

    def test_killed(self, daemon: Daemon) -> None:
        """After SIGKILL the bans are in force, and a new start takes over the socket that was left."""
        assert daemon.start(OPEN_TO_ROOT).connect().ask("ban", "web", address="203.0.113.1")["ok"]
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        assert daemon.bans() == {"203.0.113.1"}
        assert daemon.socket.exists()
        daemon.start()
        assert daemon.connect().ask("contains", "web", address="203.0.113.1")["contains"]

    def test_a_client_that_does_not_read_does_not_hold_up_the_end(self, daemon: Daemon) -> None:
        """Stopping does not wait for ever for answers to be read."""
        daemon.start(OPEN_TO_ROOT)
        greedy = daemon.connect()
        greedy.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                greedy.socket.send(b"x\n" * 1000)
        assert daemon.stop() == 0

    @pytest.mark.parametrize("what", ["a server", "a file"])
    def test_does_not_take_what_is_there(self, daemon: Daemon, what: str) -> None:
        """A socket that somebody serves, and a file that is no socket, are left alone; it exits 1 and says so."""
        daemon.configure(OPEN_TO_ROOT)
        with socket.socket(socket.AF_UNIX) as other:
            if what == "a server":
                other.bind(str(daemon.socket))
                other.listen()
            else:
                daemon.socket.write_text("precious")
            daemon.start(wait=False)
            assert daemon.process is not None
            assert daemon.process.wait(20) == 1
            assert str(daemon.socket) in daemon.log
        assert daemon.socket.exists()

    def test_a_list_that_was_removed_is_made_again(self, daemon: Daemon) -> None:
        """Somebody flushes all rules: the next ban is in force all the same, and the log says what happened."""
        client = daemon.start(OPEN_TO_ROOT + "max_entries = 2\n").connect()
        for removal in ("flush ruleset", "delete table inet nfkeep"):
            assert client.ask("ban_many", "web", addresses=["203.0.113.1", "203.0.113.2"])["ok"]
            daemon.namespace.run(["nft", removal])
            assert client.ask("ban", "web", address="203.0.113.3")["ok"], "and it is no third one"
            assert daemon.bans() == {"203.0.113.3"}
            assert client.ask("unban", "web", address="203.0.113.3")["unbanned"]
        daemon.namespace.run("nft flush ruleset")
        assert client.ask("bans", "web")["bans"] == []
        assert daemon.log.count("list web was gone") == 3

    def test_reload(self, daemon: Daemon) -> None:
        """SIGHUP takes on another configuration, also for who is connected; one that is wrong changes nothing."""
        daemon.start(OPEN_TO_ROOT + "[list mail]\nusers = 0\nbackend = nft\n")
        assert daemon.process is not None
        client = daemon.connect()
        assert client.ask("ban", "mail", address="203.0.113.1")["ok"]

        daemon.configure("[list web]\nusers = 0\nbackend = nft\nno_such_key = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "stays as it was" in daemon.log)
        assert client.ask("ban", "mail", address="203.0.113.2")["ok"]

        daemon.configure("[list web]\nusers = 7\nbackend = nft\n[list new]\nusers = 0\nbackend = nft\naction = count\n")
        daemon.namespace.run("nft flush chain inet nfkeep input")  # its rules are gone, and no ban has an effect
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "was read again" in daemon.log)
        assert [client.ask("ban", name, address="203.0.113.3")["ok"] for name in ("web", "mail", "new")] == [
            False,
            False,
            True,
        ]
        assert daemon.bans("mail") == {"203.0.113.1", "203.0.113.2"}, "no longer served, still in force"
        with daemon.namespace, BanList("new", "nft") as bans:
            assert bans.in_force(), "the rule is back"

    def test_socket_activation(self, daemon: Daemon) -> None:
        """systemd passes the socket: it is served, and left alone in the end."""
        wrapper = (
            "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
            "os.dup2(s.fileno(), 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        passed = daemon.folder / "passed"
        daemon.start(OPEN_TO_ROOT, before=(sys.executable, "-c", wrapper, str(passed)))
        client = Client(passed)
        daemon.clients.append(client)
        assert client.ask("ban", "web", address="203.0.113.1")["ok"]
        assert not daemon.socket.exists()
        assert daemon.stop() == 0
        assert passed.exists()

    @pytest.mark.parametrize("passed", ["nothing", "two", "a file"])
    def test_what_systemd_passes_must_be_one_socket(self, daemon: Daemon, passed: str) -> None:
        """If what is passed is no socket that listens, it exits 1 and says so."""
        count = "2" if passed == "two" else "1"
        opening = "os.dup2(os.open('/dev/null', os.O_RDONLY), 3)" if passed == "a file" else "os.closerange(3, 99)"
        wrapper = (
            f"import os, sys; {opening}; os.environ.update(LISTEN_FDS='{count}', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        daemon.start(OPEN_TO_ROOT, before=(sys.executable, "-c", wrapper), wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert "systemd" in daemon.log

    @pytest.mark.parametrize("confined", [False, True], ids=["one right", "as its unit has it"])
    def test_one_right_is_enough(self, daemon: Daemon, confined: bool) -> None:
        """As nobody, with CAP_NET_ADMIN only, lists are made, adopted, listed and banned in.

        And also with the system calls, the kinds of socket and of memory, and the view of /proc that the unit leaves.
        """
        before, command = UNPRIVILEGED, NFKEEPD
        if confined:
            if not (HEADER.exists() and shutil.which("systemd-analyze") and os.uname().machine == "x86_64"):
                pytest.skip("this needs systemd-analyze and the names of the system calls of x86-64")
            before = (*SPARSE_PROC, *UNPRIVILEGED)
            command = (sys.executable, str(Path(__file__).parents[1] / "confined.py"))
        if subprocess.run([*UNPRIVILEGED, *NFKEEPD, "--version"], capture_output=True, check=False).returncode:
            pytest.skip("nobody may read the Python that the tests run with")
        os.chown(daemon.folder, 65534, 65534)
        daemon.start(OPEN_TO_ROOT + "kill = yes\n", before=before, command=command)
        assert daemon.process is not None
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert "CapEff:\t0000000000001000\n" in status
        assert ("Seccomp:\t2\n" in status) == confined
        client = daemon.connect()
        assert client.ask("ban", "web", address="203.0.113.1")["ok"]
        assert client.ask("ban_many", "web", addresses=["2001:db8::/64", "203.0.113.0/24"])["ok"]
        assert len(client.ask("bans", "web")["bans"]) == 3
        daemon.namespace.run("nft flush ruleset")
        assert client.ask("ban", "web", address="203.0.113.2")["ok"]
        daemon.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "was read again" in daemon.log)
        assert daemon.stop() == 0
        assert daemon.bans() == {"203.0.113.2"}
