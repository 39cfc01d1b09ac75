"""No client of nfkeepd can do harm to another one: whatever it sends, however much, however slowly, or does not read.

Where time matters it is measured in work done meanwhile, not in seconds.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nfkeepd import ALL, OPEN_TO_ROOT, STRANGER, Client, Daemon, ban, kind, talk
from rounds import rounds

from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel


@pytest.fixture
def daemon(namespace: Namespace) -> Iterator[Daemon]:
    with Daemon.made(namespace) as made:
        yield made


class TestLimits:
    def test_the_rate_of_a_list(self, daemon: Daemon) -> None:
        """Addresses count, not requests; who is too fast is told so, and another list does not mind."""
        text = "[list {}]\nusers = 0\nbackend = nft\nrate = 1/h burst 10\n"
        client = daemon.start(text.format("web") + text.format("mail")).connect()
        assert client.ask("ban_many", "web", addresses=[f"203.0.113.{i}" for i in range(8)])["ok"]
        assert kind(client.ask("ban_many", "web", addresses=["203.0.113.8"] * 3)) == "TooFast"
        assert [client.ask("ban", "web", address="203.0.113.9")["ok"] for _ in range(3)] == [True, True, False]
        assert kind(daemon.connect().ask("contains", "web", address="203.0.113.9")) == "TooFast"
        assert kind(client.ask("ban_many", "mail", addresses=["203.0.113.1"] * 11)) == "TooLarge"
        assert client.ask("ban", "mail", address="203.0.113.1")["ok"]
        assert len(daemon.bans()) == 9

    def test_the_share_of_a_user(self, daemon: Daemon) -> None:
        """Nobody has more bans in force than he may; what is lifted makes room, and others have room of their own."""
        daemon.start(
            f"[nfkeepd]\ngroup = {STRANGER}\n[list web]\nusers = 0, {STRANGER}\nbackend = nft\nmax_entries = 3\n{ALL}\n"
        )
        client = daemon.connect()
        assert (
            client.ask("ban_many", "web", addresses=["203.0.113.1", "203.0.113.2", "nonsense"])["error"]["banned"] == 2
        )
        assert kind(client.ask("ban_many", "web", addresses=["203.0.113.3", "203.0.113.4"])) == "OverQuota"
        assert client.ask("ban", "web", address="::ffff:203.0.113.1")["ok"], "the same address again"
        assert client.ask("ban", "web", address="203.0.113.3")["ok"]
        assert kind(client.ask("ban", "web", address="203.0.113.4")) == "OverQuota"
        assert talk(daemon, [ban("203.0.113.4")], STRANGER, STRANGER) == [{"id": None, "ok": True}]
        assert client.ask("unban", "web", address="203.0.113.1")["unbanned"]
        assert client.ask("ban", "web", address="203.0.113.5")["ok"]
        assert daemon.bans() == {f"203.0.113.{i}" for i in (2, 3, 4, 5)}

    def test_a_repeat_is_no_way_around_the_share(self, daemon: Daemon) -> None:
        """An address that is in one request twice, once with a timeout that may not be, is counted all the same."""
        client = daemon.start(OPEN_TO_ROOT + "max_timeout = 1h\nmax_entries = 2\n").connect()
        for i in range(2):
            twice = [f"203.0.113.{i}", [f"203.0.113.{i}", 7200]]
            assert client.ask("ban_many", "web", addresses=twice)["error"]["banned"] == 1
        assert kind(client.ask("ban", "web", address="203.0.113.9")) == "OverQuota"

    def test_connections(self, daemon: Daemon) -> None:
        """So many of one user, so many in all; who comes after that is told why, and when one goes one may come."""
        daemon.start(
            f"[nfkeepd]\ngroup = {STRANGER}\nmax_connections = 4\nmax_connections_per_user = 3\n"
            f"[list web]\nusers = 0, {STRANGER}\nbackend = nft\n"
        )
        clients = [daemon.connect() for _ in range(3)]
        assert [each.ask("ping")["ok"] for each in clients] == [True] * 3
        late = daemon.connect()
        assert kind(late.read()) == "Busy"
        assert late.read() is None
        assert talk(daemon, [ban("203.0.113.1")], STRANGER, STRANGER) == [{"id": None, "ok": True}]
        clients[0].close()
        assert wait_until(lambda: gets_in(daemon))

    def test_two_hundred_connections(self, daemon: Daemon) -> None:
        """All at once, each of them bans, and each has its answer."""
        text = OPEN_TO_ROOT.replace("[nfkeepd]\n", "[nfkeepd]\nmax_connections_per_user = 200\n")
        daemon.start(text)
        clients = [daemon.connect() for _ in range(200)]
        for i, client in enumerate(clients):
            client.socket.sendall(json.dumps(ban(f"203.0.113.{i}")).encode() + b"\n")
        assert [client.read() for client in clients] == [{"id": None, "ok": True}] * 200
        assert len(daemon.bans()) == 200

    def test_a_line_too_long(self, daemon: Daemon) -> None:
        """The longest line is served; a longer one is answered, cut off, and never kept in memory."""
        daemon.start(OPEN_TO_ROOT)
        client = daemon.connect()
        longest = json.dumps({"op": "ping"}).encode().ljust(65536)
        client.socket.sendall(longest + b"\n")
        assert client.read() == {"id": None, "ok": True}
        client.socket.sendall(longest + b" \n")
        assert kind(client.read()) == "TooLarge"
        assert client.read() is None

        assert daemon.process is not None
        before = peak_kilobytes(daemon.process.pid)
        client = daemon.connect()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.socket.sendall(b"x" * 100_000_000)
        assert kind(client.read()) == "TooLarge"
        assert peak_kilobytes(daemon.process.pid) - before < 4096

    def test_a_line_that_does_not_come_to_its_end(self, daemon: Daemon) -> None:
        """Who sends byte by byte is cut off; who has asked for nothing yet may wait as long as he likes."""
        daemon.start(OPEN_TO_ROOT.replace("[nfkeepd]\n", "[nfkeepd]\nidle_timeout = 0.3s\n"))
        quiet, slow = daemon.connect(), daemon.connect()
        assert quiet.ask("ping")["ok"]
        sent = itertools.count()

        def is_cut() -> bool:
            try:
                slow.socket.send(b'{"op": '[(at := next(sent)) : at + 1] or b" ")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        assert wait_until(is_cut, timeout=20, interval=0.05)
        assert next(sent) > 3, "not for its first bytes"
        assert quiet.ask("ping")["ok"]

    def test_answers_that_nobody_reads(self, daemon: Daemon) -> None:
        """Who asks and asks and does not read the answers is cut off; the daemon keeps next to nothing for him."""
        daemon.start(OPEN_TO_ROOT.replace("[nfkeepd]\n", "[nfkeepd]\nidle_timeout = 0.3s\n"))
        other, greedy = daemon.connect(), daemon.connect()
        assert other.ask("ban_many", "web", addresses=[f"203.0.{i >> 8}.{i & 255}" for i in range(1000)])["ok"]
        assert daemon.process is not None
        before = peak_kilobytes(daemon.process.pid)
        greedy.socket.setblocking(False)
        request = json.dumps({"op": "bans", "list": "web"}).encode() + b"\n"

        def is_cut() -> bool:
            try:
                while True:
                    greedy.socket.send(request * 100)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True

        assert wait_until(is_cut, timeout=20)
        assert other.ask("ping")["ok"]
        assert peak_kilobytes(daemon.process.pid) - before < 16_384

    def test_a_flood_does_not_keep_another_user_waiting(self, daemon: Daemon) -> None:
        """While one user's 30 connections have 60,000 requests to answer, another one's bans are done in between."""
        daemon.start(
            f"[nfkeepd]\ngroup = {STRANGER}\nrate = 1000000/s\n[list web]\nusers = 0\nbackend = nft\n"
            f"[list flood]\nusers = {STRANGER}\nbackend = nft\nrate = 100000/s\nmax_entries = 1000000\n"
        )
        client = daemon.connect()
        flood = [sys.executable, "-c", FLOOD, str(daemon.socket), str(STRANGER)]
        with subprocess.Popen(flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flooder:
            assert flooder.stdout is not None
            assert flooder.stdout.readline() == "flooding\n"
            for i in range(30):
                assert client.ask("ban", "web", address=f"203.0.113.{i}")["ok"]
            done_meanwhile = flooder.communicate("how many?\n", 60)[0]
        assert int(done_meanwhile) < 30_000
        assert len(daemon.bans()) == 30

    @settings(
        deadline=None,
        max_examples=rounds(60),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        said=st.lists(st.binary(max_size=200) | st.sampled_from([b'{"op":"ping"}', b"[" * 5000, b"\xff"]), max_size=20)
    )
    def test_any_bytes(self, garbage: Daemon, said: list[bytes]) -> None:
        """Whatever comes in, each whole line has exactly one answer, and the daemon goes on."""
        data = b"\n".join(said)
        client = Client(garbage.socket)
        client.socket.sendall(data)
        client.socket.shutdown(socket.SHUT_WR)
        answers = [*iter(client.read, None)]
        client.close()
        assert len(answers) == data.count(b"\n")
        assert all(type(each["ok"]) is bool for each in answers)
        assert garbage.process is not None
        assert garbage.process.poll() is None

    @pytest.fixture
    def garbage(self, daemon: Daemon) -> Daemon:
        return daemon.start(OPEN_TO_ROOT)


FLOOD = """
import json, os, selectors, socket, sys
uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
line = json.dumps({"op": "ban", "list": "flood", "address": "198.51.100.1"}).encode() + b"\\n"
selector, answers, asked = selectors.DefaultSelector(), 0, False
for _ in range(30):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.setblocking(False)
    selector.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE, bytearray(line * 2000))
selector.register(sys.stdin, selectors.EVENT_READ)
while answers < 60_000:
    for key, events in selector.select():
        if key.fileobj is sys.stdin:
            print(answers, flush=True)
            sys.exit()
        if events & selectors.EVENT_WRITE:
            del key.data[: key.fileobj.send(key.data)]
            if not key.data:
                selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        if events & selectors.EVENT_READ:
            answers += key.fileobj.recv(65536).count(b"\\n")
    if answers > 1000 and not asked:
        asked = True
        print("flooding", flush=True)
print(answers)
"""


def gets_in(daemon: Daemon) -> bool:
    """Whether there is room for a client; its connection is kept."""
    client = daemon.connect()
    client.socket.sendall(b'{"op": "ping"}\n')
    answer = client.read()
    return answer is not None and bool(answer["ok"])


def peak_kilobytes(pid: int) -> int:
    """The most memory that a process had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")
