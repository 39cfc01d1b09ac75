"""Writes what this kernel really says, out of namespaces full of rules and flows, as seeds: `seeds.py FOLDER`."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from nfkeep import Family
from nfkeep.errors import NfkeepError
from nfkeep.namespaces import CommandFailedError, Namespace
from nfkeep.xtables import recent
from nfkeep.xtables._ffi import read_image

MATCHES = [
    "-s 192.0.2.1 -d 198.51.100.0/24 -i eth+ ! -o lo",
    "-p tcp -m tcp --dport 22:80 --tcp-flags SYN,ACK SYN",
    "-p tcp -m multiport --dports 80,443,1000:2000",
    "-p udp -m udp --sport 53",
    "-m conntrack --ctstate NEW,ESTABLISHED",
    "-m state --state RELATED",
    "-m recent --name fuzz --update --seconds 60 --hitcount 3",
    "-m recent --name fuzz --set",
    "-m limit --limit 3/min --limit-burst 7",
    "-p tcp -m connlimit --connlimit-above 3 --connlimit-mask 24",
    "-m hashlimit --hashlimit-above 10/sec --hashlimit-mode srcip --hashlimit-name fuzz",
    "-m quota --quota 100000",
    "-m statistic --mode nth --every 3 --packet 1",
    "-m statistic --mode random --probability 0.5",
    '-m comment --comment "a comment"',
    "-m mac --mac-source 00:11:22:33:44:55",
    "-m mark --mark 0x1/0xff",
    "-m connmark --mark 7",
    "-m connbytes --connbytes 100: --connbytes-dir both --connbytes-mode bytes",
    '-m string --string "needle" --algo bm --to 100',
    "-m time --timestart 10:00 --timestop 12:00 --weekdays Mon,Tue",
    '-m u32 --u32 "6&0xFF=1"',
    "-m length --length 100:200",
    "-m pkttype --pkt-type multicast",
    "-m tos --tos 0x10",
    "-m dscp --dscp 0x0a",
    "-m addrtype --dst-type LOCAL",
    "-m helper --helper ftp",
    "-m cpu --cpu 0",
    "-m owner --uid-owner 0",
    "-m policy --dir out --pol none",
    "-m socket --transparent",
    "-m rateest --rateest name --rateest-lt --rateest-bps 1kbit",
    "-m iprange --src-range 192.0.2.1-192.0.2.9",
    "-p icmp -m icmp --icmp-type 8",
    "-m ttl --ttl-lt 5",
    "-m frag --fragid 1",
    "-m rt --rt-type 0",
    "-m hl --hl-lt 5",
    "-p icmpv6 -m icmp6 --icmpv6-type 128",
]
TARGETS = [
    "", "-j ACCEPT", "-j DROP", "-j RETURN", "-j first", "-g second", "-j REJECT --reject-with icmp-port-unreachable",
    '-j LOG --log-prefix "fuzz: "', "-j NFLOG --nflog-group 3", "-j NFQUEUE --queue-num 1", "-j QUEUE",
    "-j MARK --set-mark 3", "-j CONNMARK --save-mark", "-j TTL --ttl-set 5", "-j TOS --set-tos 4",
    "-j CLASSIFY --set-class 1:1",
    "-p tcp -j TCPMSS --clamp-mss-to-pmtu", "-j CT --notrack", "-j TRACE",
    "-p tcp -j DNAT --to-destination 192.0.2.9:80",
    "-j MASQUERADE", "-p tcp -j REDIRECT --to-ports 80", "-j SNAT --to-source 192.0.2.1",
]  # fmt: skip
NFT_RULES = [
    "counter",
    'ip saddr 192.0.2.1 counter packets 3 bytes 180 drop comment "why"',
    "tcp dport { 22, 80 } limit rate 3/second counter accept",
    "tcp dport vmap { 22 : accept, 23 : drop }",
    "quota over 1000 bytes quota name q counter",
    'add @s { ip saddr } log prefix "fuzz" counter counter',
    "ct count over 10 reject with tcp reset",
]
CHAINS = {"filter": "INPUT OUTPUT", "mangle": "PREROUTING OUTPUT", "nat": "PREROUTING POSTROUTING", "raw": "PREROUTING"}


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["XTABLES_LOCKFILE"] = str(folder / "lock")
    for name, make in (
        ("tables", tables),
        ("conntrack", conntrack),
        ("nft", nft),
        ("addresses", addresses),
        ("rules", rules),
        ("recent", lists),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        count = 0
        for seed in make():
            (folder / name / f"{count:04}").write_bytes(seed)
            count += 1
        assert count, f"there are no seeds for {name}"


def tables() -> Iterator[bytes]:
    """As struct header in tables.c: each table with few rules, since small inputs are tried more often."""
    for family, (table, chains) in itertools.product(Family, CHAINS.items()):
        binary = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
        rules = [f"{match} -j ACCEPT" for match in MATCHES] + TARGETS
        for some in [rules[at : at + 4] for at in range(0, len(rules), 4)]:
            namespace = Namespace()
            for chain in ("first", "second"):
                namespace.run(f"{binary} -t {table} -N {chain}")
            namespace.run(f"{binary} -t {table} -A second -j ACCEPT")
            taken = 0
            for number, rule in enumerate(some):
                chain = [*chains.split(), "first"][number % 3] if number % 3 < len(chains.split()) else "first"
                taken += not namespace.run(f"{binary} -t {table} -A {chain} {rule}", check=False).returncode
            if taken:
                with namespace:
                    yield from of_table(table, family)
            namespace.close()


def of_table(table: str, family: Family) -> Iterator[bytes]:
    try:
        image = read_image(table, family)
    except NfkeepError:
        return
    places = (*image.hook_entries, *image.underflows)
    for what in (0, 7):
        header = struct.pack("=BBHII10I", family is Family.IPV6, what, 0, image.number, image.valid_hooks, *places)
        yield header + image.entries


def answers(messages: list[bytes]) -> bytes:
    """As kernel.c wants them: so many datagrams, each behind its length, with a sequence that fits any question."""
    datagrams = b""
    for message in messages:
        fitting = message[:8] + b"\xfe" * 4 + message[12:]
        datagrams += struct.pack("=H", len(fitting)) + fitting
    return bytes([len(messages)]) + datagrams


def asked(kind: int, family: int, attributes: bytes = b"") -> list[bytes]:
    """What the kernel answers a dump request of nfnetlink with, message by message."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as channel:  # NETLINK_NETFILTER
        body = struct.pack("=BBH", family, 0, 0) + attributes
        channel.send(struct.pack("=IHHII", 16 + len(body), kind, 0x301, 1, 0) + body)
        messages = []
        while True:
            data = channel.recv(1 << 16)
            while data:
                length, answer = struct.unpack_from("=IH", data)
                if answer in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    return messages
                messages.append(data[:length])
                data = data[(length + 3) & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def conntrack() -> Iterator[bytes]:
    """The first byte chooses the family and the question; then entries, expectations and routes."""
    namespace = Namespace()
    for binary in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run(f"{binary} -A INPUT -m conntrack --ctstate NEW -j ACCEPT")
    for address, number in itertools.product(("127.0.0.1", "::1"), range(3)):
        with namespace:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.create_server((address, 1000 + number), family=family) as server:
                socket.create_connection(server.getsockname()[:2]).close()
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", (address, 2000 + number))
    with namespace:
        for what, family in ((0, socket.AF_INET), (1, socket.AF_INET6), (6, socket.AF_INET), (7, socket.AF_INET6)):
            entries = asked(1 << 8 | 1, family)
            for some in (entries[:1], entries[1:3], entries):
                yield bytes([what]) + answers(some) + answers([]) + answers([route(family)]) + answers([])
    namespace.close()


def route(family: int) -> bytes:
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 0, 0, 2, 0) + attribute(4, struct.pack("=I", 1))
    return struct.pack("=IHHII", 16 + len(body), 24, 0, 0, 0) + body  # RTM_NEWROUTE


def nft() -> Iterator[bytes]:
    """The first byte chooses the length of a key; then what a dump of such a set says."""
    kinds = {"ipv4_addr": ["192.0.2.1", "192.0.2.2"], "ipv6_addr": ["2001:db8::1"], "mark . mark": ["1 . 2"],
             "ipv6_addr . ipv6_addr": ["2001:db8:: . ffff::"]}  # fmt: skip
    for number, (kind, elements) in enumerate(kinds.items()):
        namespace = Namespace()
        namespace.run(["nft", f"add table inet t; add set inet t s {{ type {kind}; flags timeout; }}"])
        for count, element in enumerate(elements):
            extra = ['timeout 1h comment "why"', "timeout 2h", ""][count % 3]
            namespace.run(["nft", f"add element inet t s {{ {element} {extra} }}"])
        position = [0, 2, 1, 3][number]
        with namespace:
            names = attribute(1, b"t\0") + attribute(2, b"s\0")
            messages = asked(10 << 8 | 13, 1, names)  # NFT_MSG_GETSETELEM of NFPROTO_INET
        yield bytes([position]) + answers(messages)
        namespace.close()


def addresses() -> Iterator[bytes]:
    yield b"192.0.2.1\n192.0.2.0/24\n2001:db8::1\n2001:db8::/32\n::ffff:192.0.2.1\n127.0.0.1\n::/0\n192.0.2.1/24\n1.2\n"
    yield b"\n".join(b"10.0.%d.%d" % (number // 250, number % 250) for number in range(200))
    yield b"add n 192.0.2.1 timeout 5\nadd n 192.0.2.2 timeout 0\n"
    yield b"add n 2001:db8::1\nadd n ::ffff:192.0.2.1\nadd n 2001:db8::1\n"


def rules() -> Iterator[bytes]:
    """As rules.c wants them: what the kernel lists of some rules of nft."""
    namespace = Namespace()
    namespace.run(["nft", "add table ip t; add chain ip t c; add quota ip t q { over 1 mbytes; }"])
    namespace.run(["nft", "add set ip t s { type ipv4_addr; size 8; flags dynamic; timeout 1m; }"])
    for rule in NFT_RULES:
        namespace.run(["nft", f"add rule ip t c {rule}"])
    with namespace:
        listed = [message[20:] for message in asked(10 << 8 | 7, 2)]  # NFT_MSG_GETRULE of NFPROTO_IPV4
    namespace.close()
    listed = [each for each in listed if len(each) > 4]  # the last message only ends the dump
    for some in [listed, *([each] for each in listed)]:
        yield b"".join(struct.pack("=H", len(each)) + each for each in some)


def lists() -> Iterator[bytes]:
    namespace = Namespace()
    for binary in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run(f"{binary} -A INPUT -m recent --name fuzz --set")
    with namespace:
        path = Path(recent.DIRECTORY, "fuzz")
        for address in ("192.0.2.1", "198.51.100.77", "2001:db8::1", "192.0.2.1"):
            path.write_text(f"+{address}")
        yield path.read_bytes()
    namespace.close()


if __name__ == "__main__":
    try:
        main()
    except CommandFailedError as error:
        sys.exit(str(error))
