"""What cannot be compared: acts that leave no trace in a packet, and conditions that no packet here can meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfkeep.migrate.source import rules_of
from nfkeep.migrate.verify.ticks import is_quick
from nfkeep.migrate.verify.words import read_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.migrate.source import Source

_TARGETS = {
    "LOG": "the text in the kernel's log",
    "TRACE": "the trace",
    "AUDIT": "the audit record",
    "SECMARK": "the security mark",
    "CONNSECMARK": "the security mark",
    "LED": "the light",
    "IDLETIMER": "the timer",
    "RATEEST": "the estimator",
    "CHECKSUM": "a checksum that hardware would have to fill in",
    "NFQUEUE": "the queue; without a listener, packets end there",
    "SYNPROXY": "the handshake",
    "SET": "the set's elements",
}
_MATCHES = {
    "bpf": "packets are not made to fit a program",
    "cgroup": "all packets come from one control group",
    "cluster": "packets come from few sources",
    "cpu": "packets are handled by whatever CPU sends them",
    "devgroup": "all interfaces are in group 0",
    "ipvs": "there is no virtual server",
    "nfacct": "the accounting objects are not read",
    "osf": "packets are not made to look like an operating system's",
    "physdev": "there is no bridge",
    "policy": "there is no IPsec",
    "rateest": "there is no estimator",
    "set": "sets are not filled",
    "socket": "there are no sockets but raw ones",
    "time": "only now",
    "realm": "no route has a realm",
    "u32": "packets are not made to fit the words that it looks at",
}


def unseen(source: Source) -> Iterator[str]:
    """One line for each rule and thing in it."""
    for table, _, rule in rules_of(source):
        words = read_words(rule.words)
        where = f"-t {table.name} {rule.text}"
        if reason := _TARGETS.get(words.target):
            yield f"{where}: {words.target}: not compared: {reason}"
        for match in dict.fromkeys(word.value for word in words.conditions if word.name == "-m"):
            if match in _MATCHES:
                yield f"{where}: -m {match}: hardly tried: {_MATCHES[match]}"
            if match == "quota" and rule.counters and rule.counters.bytes:
                yield f"{where}: -m quota: how much is used up of it: it begins whole on both sides"
        if is_quick(words):
            yield f"{where}: packets within a tick of each other: iptables adds credit once a tick, nft at once"
        if any(word.name == "--mode" and word.value == "random" for word in words.conditions):
            yield f"{where}: -m statistic: chance differs from host to host"
