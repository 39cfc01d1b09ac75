"""Whose rules these are, and what the operator is told to change there."""

from __future__ import annotations

import pytest

from nfkeep.migrate.live.owners import find


@pytest.mark.parametrize(
    ("chain", "program", "said"),
    [
        ("DOCKER-USER", "Docker", '"firewall-backend": "nftables"'),
        ("KUBE-SERVICES", "Kubernetes", "kube-proxy"),
        ("LIBVIRT_INP", "libvirt", "/etc/libvirt/network.conf"),
        ("f2b-sshd", "fail2ban", "nfkeep fail2ban adopt"),
        ("ufw-before-input", "ufw", "stop and disable it"),
        ("INPUT_direct", "firewalld", "FirewallBackend=nftables"),
        ("LOCALINPUT", "CSF", "stop and disable it"),
        ("shorewall", "Shorewall", "/etc/nftables.conf"),
        ("MINIUPNPD", "miniupnpd", "write with nft"),
    ],
)
def test_advice(chain: str, program: str, said: str) -> None:
    """Each is known by a chain; of one that nothing more is known of, what holds for all is said."""
    (owner,) = find(["INPUT", chain, f"{chain}-2"])
    assert (owner.program, owner.by) == (program, f"chain {chain}")
    assert said in owner.advice


def test_boot_files() -> None:
    """Rules that are loaded at boot have an owner, too."""
    (owner,) = find(["INPUT"], ["/etc/iptables/rules.v4"])
    assert (owner.program, owner.by) == ("netfilter-persistent", "file /etc/iptables/rules.v4")


def test_nobody() -> None:
    """Chains of the operator's own."""
    assert list(find(["INPUT", "my-chain"])) == []
