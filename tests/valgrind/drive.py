"""Once through everything that is compiled, in a namespace of its own, to be run under valgrind: see `run`."""

from __future__ import annotations

import contextlib
import socket

import nfkeep
from nfkeep import BanList, CommitError, Family, InvalidRuleError, Rule
from nfkeep.keep.transaction import transactions
from nfkeep.namespaces import Namespace

RULES = [
    "-s 192.0.2.1/32 -i eth+ -p tcp -m tcp --dport 22:80 --tcp-flags SYN,ACK SYN -j ACCEPT",
    "-p tcp -m multiport --dports 80,443 -m conntrack --ctstate NEW -j user",
    '-p udp -m string --string "needle" --algo bm -m comment --comment "why" -j DROP',
    "-m recent --name drive --update --seconds 60 --hitcount 3 -j DROP",
    "-m recent --name drive --set",
    "-m limit --limit 3/min -j LOG --log-prefix drive",
    "-m hashlimit --hashlimit-above 10/sec --hashlimit-mode srcip --hashlimit-name drive",
    "-m quota --quota 100000",
    "-p tcp --dport 873 --syn -m connlimit --connlimit-above 3 -j REJECT",
    "-m statistic --mode nth --every 3 --packet 0 -g user",
]
BAD = [
    "-p nothing",
    "-m nothing",
    "-j",
    "--dport 1",
    "-s 1.2.3.4,1.2.3.5",
    "-m limit --limit x",
    "-j LOG --log-level y",
]


def texts() -> None:
    for family in Family:
        for text in RULES:
            with contextlib.suppress(InvalidRuleError):  # IPv4 addresses are no IPv6
                rule = Rule.parse(text, family)
                assert str(Rule.parse(str(rule), family)) == str(rule)
        for text in BAD:
            with contextlib.suppress(InvalidRuleError):
                raise AssertionError(f"{Rule.parse(text, family)} is a rule")
    with contextlib.suppress(InvalidRuleError):
        str(Rule(Family.IPV4, bytes(200)))


def tables() -> None:
    for family in Family:
        with nfkeep.transaction("filter", family) as tx:
            tx.new_chain("user")
            tx.new_chain("other")
            tx.append("user", "-j RETURN")
            for text in RULES:
                with contextlib.suppress(InvalidRuleError):
                    tx.append("INPUT", text)
        with nfkeep.transaction("filter", family) as tx:
            tx.rename_chain("user", "renamed")
            tx.delete_chain("other")
            tx.insert("OUTPUT", "-p tcp -j renamed")
            tx.replace("OUTPUT", 1, "-p udp -j ACCEPT")
            tx.delete("OUTPUT", "-p udp -j ACCEPT")
            tx.set_policy("FORWARD", "DROP")
            tx.zero_counters()
        nfkeep.read("filter", family)
    with contextlib.suppress(CommitError), transactions(("filter", Family.IPV4), ("mangle", Family.IPV4)) as txs:
        txs["filter", Family.IPV4].append("INPUT", "-s 192.0.2.7 -j DROP")
        txs["mangle", Family.IPV4].append("INPUT", "-p udp -j REJECT")


def flows() -> None:
    """Connections that a rule limits: dumped, selected, and counted again."""
    with nfkeep.transaction() as tx:
        tx.append("INPUT", "-p tcp --dport 873 --syn -m connlimit --connlimit-above 3 -j REJECT")
    with socket.create_server(("127.0.0.1", 873)) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        with nfkeep.transaction() as tx:
            tx.append("FORWARD", "-j DROP")
        assert not tx.report.lost
        for client in clients:
            client.close()


def lists() -> None:
    for backend in ("nft", "ipset", "recent"):
        bans = BanList(f"drive-{backend}", backend=backend).open()
        bans.ban("203.0.113.9", timeout=None if backend == "recent" else 60)
        bans.ban_many(["203.0.113.10", "2001:db8::1"])
        assert len(bans) == 3
        assert "203.0.113.9" in bans
        bans.unban("203.0.113.9")
        bans.unban_many(["203.0.113.10", "2001:db8::1"])
        assert not list(bans)
        bans.remove()


def main() -> None:
    texts()
    for part in (tables, flows, lists):
        namespace = Namespace()
        with namespace:
            part()
        namespace.close()


if __name__ == "__main__":
    main()
