"""nfkeepd on the real kernel: each operation does what it says, for whom it is given to, and for nobody else.

Each test has a daemon of its own in a network namespace of its own; clients are this process, or others with their uid.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from nfkeepd import ALL, OPEN_TO_ROOT, STRANGER, Daemon, ban, kind, talk

from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

FORBIDDEN = {"kind": "Forbidden", "message": "there is no such list, or you may not do this in it"}


@pytest.fixture
def daemon(namespace: Namespace) -> Iterator[Daemon]:
    with Daemon.made(namespace) as made:
        yield made


class TestOperations:
    def test_ban_ask_list_unban(self, daemon: Daemon) -> None:
        """Each operation does what it says, in the kernel and in the answer."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        assert client.ask("ping") == {"ok": True}
        assert client.ask("ban", "web", address="203.0.113.9", timeout=600, comment="too many requests") == {"ok": True}
        assert client.ask("ban", "web", address="2001:db8::/64", timeout="forever") == {"ok": True}
        assert client.ask("contains", "web", address="203.0.113.9") == {"ok": True, "contains": True}
        assert client.ask("contains", "web", address="203.0.113.8") == {"ok": True, "contains": False}
        assert daemon.bans() == {"203.0.113.9", "2001:db8::/64"}
        page = client.ask("bans", "web")
        assert (page["ok"], page["next"], len(page["bans"])) == (True, None, 2)
        first, second = page["bans"]
        assert 590 < first.pop("expires") <= 600
        assert first == {"address": "203.0.113.9", "timeout": 600.0, "comment": "too many requests"}
        assert second == {"address": "2001:db8::/64", "timeout": None, "expires": None}
        assert client.ask("unban", "web", address="203.0.113.9") == {"ok": True, "unbanned": True}
        assert client.ask("unban", "web", address="203.0.113.9") == {"ok": True, "unbanned": False}
        assert daemon.bans() == {"2001:db8::/64"}

    def test_many_at_once(self, daemon: Daemon) -> None:
        """A thousand in one request; each has its own timeout, or the request's, or the list's."""
        client = daemon.start(OPEN_TO_ROOT + "timeout = 1h\n").connect()
        addresses: list[object] = [f"203.0.{i >> 8}.{i & 255}" for i in range(998)]
        addresses += [["198.51.100.1", 60], ["2001:db8::1", "forever"]]
        assert client.ask("ban_many", "web", addresses=addresses) == {"ok": True, "banned": 1000}
        found = {each["address"]: each["timeout"] for each in client.ask("bans", "web")["bans"]}
        assert len(found) == 1000
        assert (found["203.0.1.1"], found["198.51.100.1"], found["2001:db8::1"]) == (3600.0, 60.0, None)
        assert client.ask("ban_many", "web", addresses=["198.51.100.2"], timeout=5) == {"ok": True, "banned": 1}
        assert wait_until(
            lambda: client.ask("bans", "web", after="198.51.100.1", limit=1)["bans"][0]["timeout"] == 5.0, 30
        )

    def test_some_of_many_are_refused(self, daemon: Daemon) -> None:
        """Those that cannot be banned are told one by one, and all the others are in force."""
        client = daemon.start(OPEN_TO_ROOT + "max_timeout = 1h\n").connect()
        given_ = ["203.0.113.1", "nonsense", "127.0.0.1", ["203.0.113.2", 7200], ["203.0.113.3", 60], "0.0.0.0/0"]
        error = client.ask("ban_many", "web", addresses=given_)["error"]
        assert (error["kind"], error["banned"], error["refused_count"]) == ("RefusedBansError", 2, 4)
        assert {each["address"]: each["kind"] for each in error["refused"]} == {
            "nonsense": "InvalidAddressError",
            "127.0.0.1": "AllowedAddressError",
            "203.0.113.2": "InvalidBanError",
            "0.0.0.0/0": "AllowedAddressError",
        }
        assert daemon.bans() == {"203.0.113.1", "203.0.113.3"}

    def test_pages(self, daemon: Daemon) -> None:
        """Page by page every ban is told, once, in order; both families, hosts and networks."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        wanted = [f"203.0.113.{i}" for i in range(250)] + [f"2001:db8::{i:x}" for i in range(1, 100)]
        wanted += ["203.0.113.64/26", "203.0.113.0/24", "2001:db8::/48"]
        assert client.ask("ban_many", "web", addresses=wanted)["banned"] == len(wanted)
        found: list[str] = []
        after: dict[str, object] = {}
        while True:
            page = client.ask("bans", "web", limit=17, **after)
            assert len(page["bans"]) <= 17
            found += [each["address"] for each in page["bans"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert sorted(found) == sorted(wanted)
        assert found.index("203.0.113.0/24") < found.index("203.0.113.0") < found.index("203.0.113.1")

    def test_answers_come_in_order(self, daemon: Daemon) -> None:
        """Requests may be sent without waiting; slow ones and quick ones are answered in their order."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        ops = [{"op": "ping"}, {"op": "bans", "list": "web"}, ban("203.0.113.1"), {"op": "nonsense"}]
        lines = [{"id": i, **ops[i % 4]} for i in range(200)]
        client.socket.sendall("".join(json.dumps(each) + "\n" for each in lines).encode())
        answers = [client.read() for _ in lines]
        assert [each["id"] for each in answers if each] == [*range(200)]


class TestRights:
    def test_the_socket_is_for_its_group(self, daemon: Daemon) -> None:
        """Mode 0660 and the group of the configuration; nobody outside of it connects."""
        daemon.start(f"[nfkeepd]\ngroup = {STRANGER}\n[list web]\nusers = {STRANGER}, 65534\nbackend = nft\n")
        found = daemon.socket.stat()
        assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o660)
        assert (found.st_uid, found.st_gid) == (0, STRANGER)
        assert talk(daemon, [ban("203.0.113.1")], 65534, 65534) is None
        assert talk(daemon, [ban("203.0.113.1")], 65534, 65534, STRANGER) == [{"id": None, "ok": True}]
        assert daemon.bans() == {"203.0.113.1"}

    def test_who_is_not_named_may_nothing(self, daemon: Daemon) -> None:
        """Nor can he tell a list that is not his from one that there is not; root has no rights of its own."""
        daemon.start(
            f"[nfkeepd]\ngroup = {STRANGER}\n[list web]\nusers = {STRANGER}\nbackend = nft\n{ALL}\n"
            f"[list mail]\nusers = 65534\nbackend = nft\n"
        )
        asked = [
            {"op": op, "list": name, **fields}
            for name in ("mail", "no-such-list", "", "x" * 1000, 'mail"; flush ruleset', "mail\n", "mail\0", "MAIL")
            for op, fields in (
                ("ban", {"address": "203.0.113.1"}),
                ("ban", {"address": "nonsense", "timeout": 1e9, "comment": '"\n'}),
                ("unban", {"address": "203.0.113.1"}),
                ("contains", {"address": "203.0.113.1"}),
                ("ban_many", {"addresses": ["203.0.113.1"] * 1000}),
                ("bans", {}),
            )
        ]
        answers = talk(daemon, [*asked, {"op": "ping"}, ban("203.0.113.2")], STRANGER, STRANGER)
        assert answers is not None
        assert [each.get("error") for each in answers] == [FORBIDDEN] * len(asked) + [None, None]
        assert daemon.connect().ask("ban", "web", address="203.0.113.3")["error"] == FORBIDDEN
        assert (daemon.bans("mail"), daemon.bans("web")) == (set(), {"203.0.113.2"})

    def test_operations_are_given_one_by_one(self, daemon: Daemon) -> None:
        """By default a user may ban and ask, but neither lift bans nor read the list."""
        client = daemon.start(
            "[list web]\nusers = 0\nbackend = nft\n[list two]\nusers = 0\noperations = unban\n"
        ).connect()
        assert client.ask("ban", "web", address="203.0.113.1")["ok"]
        assert client.ask("contains", "web", address="203.0.113.1")["ok"]
        for op, fields in (("unban", {"address": "203.0.113.1"}), ("bans", {})):
            assert client.ask(op, "web", **fields)["error"] == FORBIDDEN
        assert client.ask("ban", "two", address="203.0.113.1")["error"] == FORBIDDEN
        assert client.ask("unban", "two", address="203.0.113.1")["ok"]
        assert daemon.bans() == {"203.0.113.1"}

    def test_groups_count_all(self, daemon: Daemon) -> None:
        """A list is given to a group: to whom it is the first one of, and to whom it is one of many."""
        daemon.start(f"[nfkeepd]\ngroup = {STRANGER}\n[list web]\ngroups = 777\nbackend = nft\n")
        many = [*range(10_000, 10_100), STRANGER]
        for number, groups in enumerate(([777, STRANGER], [STRANGER, 777], [STRANGER, *many, 777])):
            answers = talk(daemon, [ban(f"203.0.113.{number}")], 70_000 + number, *groups)
            assert answers == [{"id": None, "ok": True}], groups
        answers = talk(daemon, [ban("203.0.113.9")], 70_009, STRANGER, *many)
        assert answers is not None
        assert [kind(each) for each in answers] == ["Forbidden"]
        assert len(daemon.bans()) == 3


class TestWords:
    @pytest.mark.parametrize("comment", ['"', "a\nb", "a\0b", "\\", "\x1b[2J", "\u2028", "\ud800", "x" * 1000])
    def test_comments_that_could_mean_something_else(self, daemon: Daemon, comment: str) -> None:
        """What could break out of a saved ruleset or a log is refused, and the address is not banned either."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        assert kind(client.ask("ban", "web", address="203.0.113.1", comment=comment)) == "InvalidBanError"
        assert daemon.bans() == set()
        assert client.ask("ban", "web", address="203.0.113.1", comment="ordinary; words $(x) 'ü'")["ok"]

    @pytest.mark.parametrize(
        "address", ["", "203.0.113.1\n203.0.113.2", "203.0.113.1\0", "203.0.113.01", "localhost", "\ud800"]
    )
    def test_addresses_that_are_none(self, daemon: Daemon, address: str) -> None:
        """No operation takes for an address what is not one in exactly one way."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        for op in ("ban", "unban", "contains"):
            assert kind(client.ask(op, "web", address=address)) == "InvalidAddressError"
        assert client.ask("ban_many", "web", addresses=[address])["error"]["refused_count"] == 1
        assert kind(client.ask("bans", "web", after=address or "x")) == "InvalidAddressError"
        assert daemon.bans() == set()

    def test_nothing_can_be_forced(self, daemon: Daemon) -> None:
        """The host's own addresses, what is allowed, and everybody stay out of reach."""
        client = daemon.start(OPEN_TO_ROOT + "allow = 198.51.100.0/24\n").connect()
        for address in ("127.0.0.1", "::1", "198.51.100.7", "0.0.0.0/0", "::/0"):
            assert kind(client.ask("ban", "web", address=address)) == "AllowedAddressError"
            assert kind(client.ask("ban", "web", address=address, force=True)) == "BadRequest"
        assert daemon.bans() == set()

    def test_the_longest_timeout(self, daemon: Daemon) -> None:
        """No ban is longer than the list allows, and one that says nothing is not either."""
        client = daemon.start(OPEN_TO_ROOT + "max_timeout = 1h\n").connect()
        for timeout in (3601, "forever"):
            assert kind(client.ask("ban", "web", address="203.0.113.1", timeout=timeout)) == "InvalidBanError"
        assert client.ask("ban", "web", address="203.0.113.1")["ok"]
        assert client.ask("bans", "web")["bans"][0]["timeout"] == 3600.0

    def test_the_log_is_lines(self, daemon: Daemon) -> None:
        """Whatever is asked for, each line of the log is a printable one of nfkeepd."""
        client = daemon.start(OPEN_TO_ROOT).connect()
        for name in ("x\n<0>nfkeepd: serving all", "\x1b[2J\x07", "\u2028\u202e", "\ud800"):
            assert client.ask("ban", name, address="203.0.113.1")["error"] == FORBIDDEN
        assert daemon.stop() == 0
        lines = daemon.log.split("\n")[:-1]
        assert len(lines) == 6
        assert all(line.startswith("nfkeepd: ") and line.isprintable() for line in lines)
