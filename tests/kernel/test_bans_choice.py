"""Which backend a list gets, and why: the one that has it, or the first that can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import nfkeep
from nfkeep import BanList

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", ["nft", "ipset", "recent"])
def test_where_it_is(namespace: Namespace, backend: str) -> None:
    """A list that is there stays where it is, and the reason says so; a new one is in nftables."""
    with namespace:
        with BanList("jail", backend, ports=["22/tcp"]) as bans:
            bans.ban("203.0.113.9")
        with BanList("jail") as again:
            assert (again.backend, str(again.policy)) == (backend, "drop 22/tcp")
            assert backend in again.reason
            assert "203.0.113.9" in again
        with BanList("another" + "r" * 40) as other:
            assert other.backend == "nft"
            assert "nf_tables" in other.reason
        BanList("jail").remove()
        assert not BanList("jail", backend).exists()


def test_lists_of_others(namespace: Namespace) -> None:
    """A list of xt_recent that rules of others made is none of ours unless it is asked for by its backend."""
    namespace.run("iptables-legacy -A INPUT -m recent --update --seconds 3600 --name fail2ban-sshd -j DROP")
    namespace.run(["sh", "-c", "echo +203.0.113.9 > /proc/self/net/xt_recent/fail2ban-sshd"])
    with namespace:
        with BanList("fail2ban-sshd") as bans:
            assert (bans.backend, len(bans)) == ("nft", 0)
            bans.remove()
        with BanList("fail2ban-sshd", "recent") as bans:
            assert [str(ban.address) for ban in bans] == ["203.0.113.9"]
        with BanList("fail2ban-sshd") as bans:
            assert bans.backend == "recent"


def test_adopted_with_its_timeout(namespace: Namespace) -> None:
    """Who adopts a list of xt_recent and says nothing leaves it the timeout that it was made with."""
    with namespace:
        with BanList("jail", "recent", timeout=600) as bans:
            bans.ban("203.0.113.9")
        before = namespace.run("iptables-legacy-save -t mangle").stdout
        with BanList("jail") as again:
            [ban] = again
            assert ban.timeout == 600
        assert "--seconds 600" in before
        assert namespace.run("iptables-legacy -t mangle -S").stdout.count("--seconds 600") == before.count(
            "--seconds 600"
        )


@pytest.mark.parametrize(("one", "other"), [("ipset", "recent"), ("recent", "ipset")])
def test_same_chains(namespace: Namespace, one: str, other: str) -> None:
    """Two lists of one name, both with rules in the legacy tables, would share them: the second is refused."""
    with namespace, BanList("jail", one) as bans:
        bans.ban("203.0.113.9")
        with pytest.raises(nfkeep.InvalidListError, match=one):
            BanList("jail", other).open()
        assert bans.in_force()


@pytest.mark.parametrize(("backend", "longest"), [("nft", 64), ("ipset", 18), ("recent", 64)])
def test_long_names(namespace: Namespace, backend: str, longest: int) -> None:
    """A name that a backend cannot have is refused before anything is made."""
    with namespace:
        with BanList("a" * longest, backend) as bans:
            bans.ban("203.0.113.9")
            assert len(bans) == 1
        with pytest.raises(nfkeep.InvalidListError):
            BanList("a" * (longest + 1), backend).open()
