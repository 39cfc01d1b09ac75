"""Whole tables as text: what iptables-save prints of them, and what is loaded from that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nfkeep import Family
from nfkeep.xtables.tables import TableHandle, read

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel

PROGRAMS = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
RULES = """*filter
:INPUT DROP [5:600]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [18446744073709551615:7]
:ACCEPTED - [0:0]
:empty - [0:0]
[1:2] -A INPUT -i lo -j ACCEPT
[3:4] -A INPUT ! -i eth+ -p tcp -m tcp --dport 22:80 -m conntrack --ctstate NEW -g ACCEPTED
[0:0] -A INPUT -m comment --comment "with  spaces, \\" and \\\\ " -j ACCEPTED
[0:0] -A INPUT -p udp -m multiport --dports 53,67:68
[0:0] -A INPUT
[18446744073709551615:9] -A OUTPUT -m limit --limit 3/min -j LOG --log-prefix "out: "
[0:0] -A ACCEPTED -p tcp -j REJECT --reject-with tcp-reset
[0:0] -A ACCEPTED -m statistic --mode nth --every 3 --packet 0 -j RETURN
COMMIT
"""


@pytest.mark.parametrize("family", Family)
def test_as_iptables_save(namespace: Namespace, family: Family) -> None:
    """A table prints as iptables-save prints it, and each of its rules as it prints alone."""
    program = PROGRAMS[family]
    namespace.run(f"{program}-restore -c", input=RULES)
    printed = namespace.run(f"{program}-save -c").stdout
    expected = [line.rstrip() for line in printed.splitlines() if not line.startswith("#")]
    with namespace:
        with TableHandle("filter", family) as handle:
            text = handle.save()
        chains = read("filter", family).chains.values()
    assert text.splitlines() == expected
    alone = [f"-A {chain.name} {rule}".rstrip() for chain in chains for rule in chain.rules]
    assert [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[")] == alone


def test_in_memory(namespace: Namespace) -> None:
    """What is printed are the changes in memory, not what the kernel has."""
    namespace.run("iptables-legacy-restore -c", input=RULES)
    with namespace, TableHandle("filter", Family.IPV4) as handle:
        handle.flush("INPUT")
        handle.set_policy("INPUT", "ACCEPT")
        assert "-A INPUT" not in handle.save()
        assert ":INPUT ACCEPT [0:0]" in handle.save()
