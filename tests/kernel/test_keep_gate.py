"""What is made before the gate is shut, and what while it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from nfkeep.conntrack import Condition, Selector
from nfkeep.keep import keeping, restore
from nfkeep.keep.guard import SHUT
from nfkeep.keep.restore import Restoration
from nfkeep.model import Family, Hook
from nfkeep.testing import Namespace, pair
from nfkeep.xtables.tables import TABLES

pytestmark = pytest.mark.kernel

SELECTOR = Selector(Hook.INPUT, (Condition(protocol=6, destination_ports=((873, 873),)),))


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with eth0 10.7.0.1/16 and one established connection from 10.7.1.1."""
    namespace, peer = Namespace(), Namespace()
    try:
        pair(namespace, "eth0", peer, "eth0")
        namespace.run("ip address add 10.7.0.1/16 dev eth0")
        ends = "-s 10.7.1.1 -d 10.7.0.1 --sport 20000 --dport 873"
        namespace.run(f"conntrack -I -p tcp {ends} --state ESTABLISHED -t 3600 -u SEEN_REPLY,ASSURED")
        yield namespace
    finally:
        namespace.close()
        peer.close()


@pytest.mark.parametrize("small", [True, False], ids=["small table of connections", "large one"])
def test_devices_are_made_early_where_a_look_is_cheap(
    host: Namespace, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """With few buckets and entries the devices are there before the gate is shut; else they are made when needed."""
    settings = {"nf_conntrack_count": 1, "nf_conntrack_buckets": 16_384 if small else 262_144}
    monkeypatch.setattr(restore, "_number_of", settings.__getitem__)
    with host, Restoration(Family.IPV4, TABLES["filter"]) as restoration:
        restoration.shut((SELECTOR,))
        index = socket.if_nametoindex("eth0")
        assert [tap.target for tap in restoration._injector.taps] == [index] * small


def test_the_gate_is_shut_and_opened(host: Namespace) -> None:
    """Between `shut` and `open_gate` the set that its chains ask has both protocols, and the time is taken."""
    with host, Restoration(Family.IPV4, TABLES["filter"]) as restoration:
        restoration.shut((SELECTOR,))
        assert restoration._guard is not None
        listing = f"nft list set inet {restoration._guard.name} {SHUT}"
        assert "tcp timeout 30s" in host.run(listing).stdout
        assert "udp timeout 30s" in host.run(listing).stdout
        restoration.open_gate()
        assert "elements" not in host.run(listing).stdout
        assert 0 < restoration.gate_seconds < 5


def test_rehearsed_the_gate_stays_open(host: Namespace) -> None:
    """All of it is made, and taken down again, but nothing is ever held off."""
    with host:
        with Restoration(Family.IPV4, TABLES["filter"]) as restoration:
            restoration.rehearse((SELECTOR,))
            assert restoration._guard is not None
            listed = host.run(f"nft list table inet {restoration._guard.name}").stdout
            assert f"@{SHUT} " in listed
            assert "elements" not in listed
        assert (restoration.gate_seconds, host.run("nft list ruleset").stdout) == (0.0, "")


def test_kept_from_the_first_change_on(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow the first time is done before the command that is run may change anything."""
    host.run("iptables-legacy -A INPUT -p tcp --syn --dport 873 -m connlimit --connlimit-above 5 -j DROP")
    done: list[str] = []
    monkeypatch.setattr(keeping, "rehearse", lambda before: done.append(before.table))
    with host, keeping.keep():
        assert done == ["filter"]
