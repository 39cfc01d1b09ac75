"""Programs that go on writing with iptables after the move, where nobody looks any more: what to change in each."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from nfkeep.keep import health_owners

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BOOT_FILES = tuple(
    Path(name)
    for name in (
        "/etc/iptables/rules.v4",
        "/etc/iptables/rules.v6",
        "/etc/sysconfig/iptables",
        "/etc/sysconfig/ip6tables",
    )
)
"""What netfilter-persistent, or iptables.service on Red Hat, loads at boot."""

_NO_NFT = "it writes with iptables only: stop and disable it, and change /etc/nftables.conf from then on"
_ADVICE = MappingProxyType(
    {
        "Calico": 'set "nftablesMode: Enabled" in the FelixConfiguration (from Calico 3.29)',
        "CrowdSec": 'set "mode: nftables" in /etc/crowdsec/bouncers/crowdsec-firewall-bouncer.yaml',
        "CSF": _NO_NFT,
        "Docker": 'set "firewall-backend": "nftables" in /etc/docker/daemon.json (from Docker 29, not in a swarm),'
        " restart it, and remove its chains from iptables",
        "fail2ban": "`nfkeep fail2ban install` and `nfkeep fail2ban adopt` have it ban in sets of nft",
        "firewalld": 'set "FirewallBackend=nftables" in /etc/firewalld/firewalld.conf and reload it',
        "Kubernetes": 'set "mode: nftables" in the configuration of kube-proxy (from Kubernetes 1.33)',
        "libvirt": 'set firewall_backend = "nftables" in /etc/libvirt/network.conf (from libvirt 10.4)',
        "netavark": 'set firewall_driver = "nftables" in the [network] section of /etc/containers/containers.conf',
        "Shorewall": _NO_NFT,
        "SSHGuard": "have BACKEND name sshg-fw-nft-sets in /etc/sshguard/sshguard.conf",
        "Tailscale": "set TS_DEBUG_FIREWALL_MODE=nftables in /etc/default/tailscaled",
        "ufw": _NO_NFT,
    }
)
_OTHERWISE = "have it write with nft: what it adds to the tables of iptables after the move is not in force"
_AT_BOOT = "netfilter-persistent"
_SWITCHED = "`nfkeep-migrate confirm` disables what loads it, on a host with systemd; else have nothing load it at boot"


@attrs.frozen(slots=True)
class Owner:
    """A program that has a hand in these rules. `by`: the chain, or the file, that tells; `advice`: what to change."""

    program: str
    by: str
    advice: str


def find(chains: Iterable[str], boot_files: Iterable[str] = ()) -> Iterator[Owner]:
    """The programs to which chains of these names belong, and what loads these files at boot."""
    for program, chain in health_owners.owners(chains).items():
        yield Owner(program, f"chain {chain}", _ADVICE.get(program, _OTHERWISE))
    for name in boot_files:
        yield Owner(_AT_BOOT, f"file {name}", _SWITCHED)
