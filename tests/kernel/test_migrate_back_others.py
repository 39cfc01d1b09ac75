"""The way back of a move where others have been at work meanwhile, in iptables and ipset or in nft's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mover import Mover

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    return Mover(namespace)


def run(mover: Mover, *commands: str) -> None:
    for command in commands:
        mover.namespace.run(command)


def elements(mover: Mover, name: str) -> set[str]:
    lines = mover.namespace.run(f"ipset save {name}").stdout.splitlines()
    return {line.split()[2] for line in lines if line.startswith("add")}


def tell(mover: Mover, name: str, *lines: str) -> None:
    """Write to a list of recent."""
    with mover.namespace:
        for line in lines:
            with open(f"/proc/thread-self/net/xt_recent/{name}", "w") as file:
                file.write(f"{line}\n")


def listed(mover: Mover, name: str) -> set[str]:
    with mover.namespace, open(f"/proc/thread-self/net/xt_recent/{name}") as file:
        return {line.split()[0].removeprefix("src=") for line in file}


@pytest.mark.parametrize("timeout", ["", " timeout 600"], ids=["for ever", "with timeouts"])
@pytest.mark.parametrize("changing", [False, True], ids=["looked into", "changed by rules"])
@pytest.mark.parametrize("confirmed", [False, True], ids=["applied", "confirmed"])
def test_elements_that_others_deleted_from_ipset(mover: Mover, timeout: str, changing: bool, confirmed: bool) -> None:
    """They stay away, as in an unban; whoever came to nft, or has come again, is there."""
    run(
        mover,
        f"ipset create banned hash:ip{timeout}",
        *(f"ipset add banned 192.0.2.{number}" for number in (1, 2, 3)),
        "iptables-legacy -A INPUT -m set --match-set banned src -j DROP",
        *["iptables-legacy -A FORWARD -p udp --dport 9 -j SET --add-set banned src"] * changing,
    )
    mover("apply")
    run(mover, *(f"ipset del banned 192.0.2.{number}" for number in (1, 2)))
    run(mover, "nft add element ip filter banned { 192.0.2.7 }")
    if timeout:
        run(mover, "nft delete element ip filter banned { 192.0.2.2 }")
        run(mover, "nft add element ip filter banned { 192.0.2.2 timeout 300s }")
    if confirmed:
        mover("confirm")
    told = mover("rollback").stdout
    again = {"192.0.2.2"} if timeout else set()
    assert elements(mover, "banned") == {"192.0.2.3", "192.0.2.7", *again}
    assert f"{1 + len(again)} elements came or were renewed" in told
    assert f"{2 - len(again)} left out that somebody has deleted from it" in told


@pytest.mark.parametrize("options", ["--rcheck", "--rcheck --seconds 3600"], ids=["of any age", "of an age"])
def test_addresses_that_others_took_off_a_list(mover: Mover, options: str) -> None:
    """They stay away; whoever came to nft is there."""
    run(mover, f"iptables-legacy -A INPUT -m recent --name bad {options} -j DROP")
    tell(mover, "bad", "+192.0.2.1", "+192.0.2.2")
    mover("apply")
    tell(mover, "bad", "-192.0.2.1")
    run(mover, f"nft add element ip filter recent-bad{'-3600s' * ('seconds' in options)} {{ 192.0.2.7 }}")
    told = mover("rollback").stdout
    assert listed(mover, "bad") == {"192.0.2.2", "192.0.2.7"}
    assert "came meanwhile, as if they were seen now, 1 left out that somebody has taken off" in told


def test_a_list_that_others_emptied(mover: Mover) -> None:
    """It stays empty, but for those whom nft has seen since; one that went with its rules is filled from nft."""
    run(mover, "iptables-legacy -A INPUT -m recent --name bad --rcheck --seconds 3600 -j DROP")
    tell(mover, "bad", "+192.0.2.1", "+192.0.2.2")
    mover("apply")
    tell(mover, "bad", "/")
    run(mover, "nft delete element ip filter recent-bad-3600s { 192.0.2.2 }")
    run(mover, "nft add element ip filter recent-bad-3600s { 192.0.2.2 }")
    mover("rollback")
    assert listed(mover, "bad") == {"192.0.2.2"}
    for command in (["confirm"], []):
        tell(mover, "bad", "+192.0.2.1")
        mover("apply")
        if command:
            mover(*command)
        else:
            saved = mover.namespace.run("iptables-legacy-save").stdout
            run(mover, "iptables-legacy -F")
            mover.namespace.run(
                "iptables-legacy-restore", input=saved.replace("-A INPUT -m comment", "-A FORWARD -m comment")
            )
        mover("rollback")
        assert listed(mover, "bad") == {"192.0.2.1", "192.0.2.2"}


def test_a_set_that_only_has_the_name_of_one_of_nft(mover: Mover) -> None:
    """A set of ipset that no rule names is left alone."""
    run(
        mover,
        "ipset create recent-seen hash:ip",
        "ipset create used hash:ip",
        "iptables-legacy -A INPUT -m set --match-set used src -j DROP",
        "iptables-legacy -A INPUT -m recent --name seen --set",
    )
    tell(mover, "seen", "+192.0.2.1")
    mover("apply")
    run(mover, "nft add element ip filter recent-seen { 192.0.2.2 }")
    mover("rollback")
    assert elements(mover, "recent-seen") == set()
    assert listed(mover, "seen") == {"192.0.2.1", "192.0.2.2"}


@pytest.mark.parametrize("confirmed", [False, True], ids=["applied", "confirmed"])
@pytest.mark.parametrize("anew", [False, True], ids=["as made", "loaded anew"])
def test_what_others_have_put_into_nft(mover: Mover, confirmed: bool, anew: bool) -> None:
    """It goes with the tables, and each rule, set, chain and object of it is told as lost; nothing else is."""
    run(
        mover,
        "iptables-legacy -A INPUT -s 192.0.2.1 -j DROP",
        "iptables-legacy -A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT",
        "iptables-legacy -A INPUT -m recent --name seen --set",
        "ip6tables-legacy -A INPUT -s 2001:db8::1 -j DROP",
    )
    mover("apply")
    if confirmed:
        mover("confirm")
    if anew:
        saved = mover.nft()
        run(mover, "nft flush ruleset")
        mover.namespace.run("nft -f -", input=saved)
    run(
        mover,
        "nft add table ip other",
        "nft insert rule ip filter INPUT ip saddr 203.0.113.9 drop",
        "nft add rule ip filter INPUT ip saddr 192.0.2.1 counter drop",
        "nft add set ip filter mine { type ipv4_addr; }",
        "nft add chain ip6 filter own",
        "nft add counter ip6 filter seen",
    )
    told = mover("rollback").stdout
    lost = [
        " ".join(line.split()) for line in told.splitlines() if " lost " in line and not line.startswith("counters")
    ]
    changed = "lost added to nft's table since, or changed:"
    assert sorted(lost) == [
        "chain nft ip6 filter own lost added to nft's table since",
        "object nft ip6 filter seen lost added to nft's table since",
        f"rule nft ip filter INPUT {changed} ip saddr 192.0.2.1 counter packets 0 bytes 0 drop",
        f"rule nft ip filter INPUT {changed} ip saddr 203.0.113.9 drop",
        "set nft ip filter mine lost added to nft's table since",
    ]
    assert mover.nft() == "table ip other {\n}\n"


NETWORKS = {
    "net": ("hash:net timeout 600 comment", ['10.0.0.0/8 comment "a,}"', "10.1.0.0/16 timeout 300", "192.0.2.1"],
            "src"),
    "nomatch": ("hash:net", ["10.0.0.0/8", "10.1.0.0/16 nomatch", "192.0.2.0/24"], "src"),
    "pair": ("hash:net,net counters", ["10.0.0.0/8,192.0.2.0/24", "10.9.9.9,192.0.2.128/25"], "src,dst"),
    "ports": ("hash:net,port", ["10.0.0.0/8,tcp:80", "10.0.0.0/8,udp:53", "10.1.0.0/16,tcp:80-81"], "src,dst"),
    "three": ("hash:ip,port,net", ["10.0.0.1,tcp:80,192.0.2.0/24"], "src,dst,src"),
    "wide": ("hash:net,port,net", ["10.0.0.0/8,udplite:80,192.0.2.0/25"], "src,dst,src"),
    "devices": ("hash:net,iface", ["10.0.0.0/8,lo", "10.1.0.0/16,eth0"], "src,src"),
    "six": ("hash:net family inet6", ["2001:db8::/32", "2001:db8:1::/48", "::1"], "src"),
}  # fmt: skip


def test_networks_that_others_have_added_in_nft(mover: Mover) -> None:
    """They are told as lost; those of ipset are not, of whatever kind, nor those that somebody has deleted there."""
    for name, (kind, some, sides) in NETWORKS.items():
        if mover.namespace.run(f"ipset create {name} {kind}", check=False).returncode:
            continue  # not every kernel has all kinds
        for each in some:
            run(mover, f"ipset add {name} {each}")
        command = "ip6tables-legacy" if name == "six" else "iptables-legacy"
        run(mover, f"{command} -A INPUT -m set --match-set {name} {sides} -j DROP")
    mover("apply")
    run(
        mover,
        "nft add element ip filter net { 203.0.113.0/24 }",
        "nft add element ip filter ports { 203.0.113.0/24 . tcp . 22 }",
        "ipset del nomatch 192.0.2.0/24",
    )
    told = mover("rollback").stdout
    lost = [" ".join(line.split()) for line in told.splitlines() if " lost " in line]
    assert lost == [
        "ipset set net lost 1 elements that were added to nft's set since: 203.0.113.0/24",
        "ipset set ports lost 1 elements that were added to nft's set since: 203.0.113.0/24 . tcp . 22",
    ]
