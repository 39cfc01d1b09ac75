"""What a plan says of a host's state, where no kernel is needed."""

from __future__ import annotations

from nfkeep import Family
from nfkeep.migrate.live.host import Host
from nfkeep.migrate.live.plan import outcomes

RULES = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m recent --name a --set\nCOMMIT\n"


def test_addresses_of_a_list_that_both_families_share() -> None:
    """Each family's are counted with it, and no others."""
    addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    host = Host(dict.fromkeys(Family, RULES), recent={"a": dict.fromkeys(addresses, (1.0,))})
    told = {each.where: each.detail.split()[0] for each in outcomes(host, ()) if each.kind == "recent"}
    assert told == {"IPv4, list a": "2", "IPv6, list a": "1"}
