"""What a jail's parameters are read as, and what is refused."""

from __future__ import annotations

import math

import pytest

from nfkeep.errors import InvalidListError
from nfkeep.integrations.fail2ban.options import Options

PORTS = {
    "none given": ({}, ("0-65535/tcp",)),
    "a name": ({"port": "ssh"}, ("22/tcp",)),
    "several": ({"port": "http,https, 8080"}, ("80/tcp", "443/tcp", "8080/tcp")),
    "as jail.conf has all": ({"port": "0:65535"}, ("0-65535/tcp",)),
    "a range": ({"port": "1000:2000"}, ("1000-2000/tcp",)),
    "neighbours": ({"port": "27015,27016,27018,27017", "protocol": "udp"}, ("27015-27018/udp",)),
    "two protocols": ({"port": "53", "protocol": "tcp,udp"}, ("53/tcp", "53/udp")),
    "a name that UDP does not have": ({"port": "ssh", "protocol": "udp"}, ("22/udp",)),
    "all protocols": ({"port": "53", "protocol": "all"}, ("53/tcp", "53/udp")),
    "all ports": ({"port": "22", "type": "allports"}, ("0-65535/tcp",)),
    "all of all": ({"type": "allports", "protocol": "all"}, ()),
    "ICMP": ({"type": "allports", "protocol": "icmp"}, ("icmp",)),
}


@pytest.mark.parametrize(("given", "expected"), PORTS.values(), ids=PORTS)
def test_ports(given: dict[str, str], expected: tuple[str, ...]) -> None:
    """`port`, `protocol` and `type` mean what they mean to fail2ban's own actions."""
    assert Options.parse("sshd", given).ports == expected


BLOCKTYPES = {
    "drop": ("drop", None),
    "DROP": ("drop", None),
    "count": ("count", None),
    "reject": ("reject", None),
    "REJECT --reject-with icmp-port-unreachable": ("reject", "port-unreachable"),
    "REJECT --reject-with icmp6-adm-prohibited": ("reject", "admin-prohibited"),
    "REJECT --reject-with tcp-reset": ("reject", "tcp-reset"),
    "reject with tcp reset": ("reject", "tcp-reset"),
    "reject with icmpx type admin-prohibited": ("reject", "admin-prohibited"),
}


@pytest.mark.parametrize(("text", "expected"), BLOCKTYPES.items(), ids=BLOCKTYPES)
def test_blocktype(text: str, expected: tuple[str, str | None]) -> None:
    """It may be written as for iptables or for nftables."""
    options = Options.parse("sshd", {"blocktype": text})
    assert (options.action, options.reject_with) == expected


NAMES = {
    "of the jail": ("sshd", {}, "f2b-sshd"),
    "given": ("sshd", {"name": "sshd-tcp"}, "f2b-sshd-tcp"),
    "list": ("sshd", {"list": "bad-guys"}, "bad-guys"),
    "what a list cannot be called": ("my jail/1", {}, "f2b-my_jail_1"),
    "long": ("x" * 80, {}, "f2b-" + "x" * 60),
}


@pytest.mark.parametrize(("jail", "given", "expected"), NAMES.values(), ids=NAMES)
def test_list_name(jail: str, given: dict[str, str], expected: str) -> None:
    """The list is named after the jail."""
    assert Options.parse(jail, given).list_name == expected


def test_the_rest() -> None:
    """Words and numbers, and what jail.conf hands on without a meaning."""
    options = Options.parse(
        "sshd",
        {"chain": "<known/chain>", "kill": "yes", "allow": "192.0.2.1, 2001:db8::/32", "grace": "5", "check": "0"},
    )
    assert (options.kill, options.allow, options.grace_seconds, options.check_seconds, options.unknown) == (
        True,
        ("192.0.2.1", "2001:db8::/32"),
        5.0,
        0.0,
        (),
    )
    assert Options.parse("sshd", {"blcktype": "drop"}).unknown == ("blcktype=drop",)
    assert Options.parse("sshd", {}).grace_seconds == 60.0


IMPOSSIBLE = {
    "a service": {"port": "nosuchservice"},
    "a port": {"port": "70000"},
    "a protocol": {"port": "22", "protocol": "ipx"},
    "a type": {"type": "newports"},
    "a way to let pass": {"blocktype": "RETURN"},
    "an answer": {"blocktype": "reject with a smile"},
    "a word": {"kill": "perhaps"},
    "a time": {"grace": "soon"},
    "a negative time": {"check": "-1"},
    "an endless time": {"grace": str(math.inf)},
}


@pytest.mark.parametrize("given", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible(given: dict[str, str]) -> None:
    """It is refused, and the message has what was given."""
    with pytest.raises(InvalidListError) as caught:
        Options.parse("sshd", given)
    assert any(value.split()[-1].upper() in str(caught.value).upper() for value in given.values())
