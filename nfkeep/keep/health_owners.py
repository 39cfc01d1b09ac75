"""Which programs edit a legacy table, told by the chains that they make in it."""

from __future__ import annotations

from collections.abc import Iterable

_CHAINS = (
    ("fail2ban", ("f2b-", "fail2ban-")),
    ("ufw", ("ufw-", "ufw6-")),
    ("Docker", ("DOCKER",)),
    ("Kubernetes", ("KUBE-",)),
    ("Calico", ("cali-", "califw-")),
    ("Cilium", ("CILIUM_", "OLD_CILIUM_")),
    ("Flannel", ("FLANNEL-",)),
    ("CNI", ("CNI-",)),
    ("netavark", ("NETAVARK",)),
    ("Istio", ("ISTIO_",)),
    ("libvirt", ("LIBVIRT_",)),
    ("firewalld", ("INPUT_direct", "FORWARD_direct", "INPUT_ZONES", "FORWARD_IN_ZONES")),
    ("Shorewall", ("shorewall", "sha-lh-", "sha-rh-")),
    ("CSF", ("LOCALINPUT", "LOCALOUTPUT", "DENYIN", "DENYOUT")),
    ("CrowdSec", ("CROWDSEC", "crowdsec")),
    ("SSHGuard", ("sshguard",)),
    ("Tailscale", ("ts-input", "ts-forward", "ts-postrouting")),
    ("miniupnpd", ("MINIUPNPD",)),
)
"""What the names of their chains begin with."""


def owners(chains: Iterable[str]) -> dict[str, str]:
    """The programs that have chains among these, each with the first one, in the order of the table's chains."""
    found: dict[str, str] = {}
    for chain in chains:
        for program, beginnings in _CHAINS:
            if chain.startswith(beginnings):
                found.setdefault(program, chain)
    return found
