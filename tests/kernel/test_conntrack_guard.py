"""What surrounds the batches: the guardian, the injection devices, volume, interrupts and errors."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from fcntl import ioctl
from pathlib import Path

import pytest
from guard_text import tcp_match

from nfkeep.conntrack import Condition, Conntrack, Injector, Selector, prime
from nfkeep.conntrack._ffi import PrimerHandle
from nfkeep.conntrack.identity import new_nonces
from nfkeep.model import Family, Hook
from nfkeep.testing import Namespace, pair

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
PORT = 873
SELECTOR = Selector(Hook.INPUT, (Condition(protocol=6, destination_ports=((PORT, PORT),)),))


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with eth0 10.7.0.1/16, a limiting rule, and a peer that nobody asks anything."""
    namespace, peer = Namespace(), Namespace()
    try:
        pair(namespace, "eth0", peer, "eth0")
        namespace.run("ip address add 10.7.0.1/16 dev eth0")
        namespace.run(f"iptables-legacy -A INPUT -p tcp --syn --dport {PORT} -m connlimit --connlimit-above 9 -j DROP")
        yield namespace
    finally:
        namespace.close()
        peer.close()


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def flow_tuple(kind: int, source: bytes, destination: bytes, source_port: int, destination_port: int) -> bytes:
    ports = attribute(2, struct.pack("!H", source_port)) + attribute(3, struct.pack("!H", destination_port))
    addresses = attribute(0x8001, attribute(1, source) + attribute(2, destination))
    return attribute(kind | 0x8000, addresses + attribute(0x8002, attribute(1, b"\x06") + ports))


def fill(namespace: Namespace, count: int, port: int = PORT, subnet: str = "10.7", here: str = "10.7.0.1") -> None:
    """Make `count` established, ASSURED flows to `here`, eight from each client, without any packet."""
    with namespace, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as ctnetlink:
        ctnetlink.bind((0, 0))
        state = attribute(0x8004, attribute(0x8001, attribute(1, b"\x03")))
        for number in range(count):
            client = socket.inet_aton(f"{subnet}.{1 + number // 8 // 250}.{1 + number // 8 % 250}")
            ends = client, socket.inet_aton(here)
            body = struct.pack("=BBH", socket.AF_INET, 0, 0)
            theirs = 20000 + number % 8
            body += flow_tuple(1, *ends, theirs, port) + flow_tuple(2, *ends[::-1], port, theirs)
            body += attribute(3, struct.pack("!I", 14)) + attribute(7, struct.pack("!I", 3600)) + state
            ctnetlink.send(struct.pack("=IHHII", 16 + len(body), 0x100, 0x605, number, 0) + body)
            assert struct.unpack_from("=i", ctnetlink.recv(4096), 16)[0] == 0


def gate(namespace: Namespace, nonce: int) -> None:
    chain = f"chain c {{ type filter hook input priority 1\n {tcp_match(nonce)} counter drop\n }}"
    namespace.run("nft -f -", input=f"table inet gate {{ {chain}\n }}\n")


def gated(namespace: Namespace) -> int:
    return int(namespace.run("nft list table inet gate").stdout.split("packets ")[1].split()[0])


def states(namespace: Namespace) -> tuple[int, int]:
    """Entries that are whole, and all."""
    lines = [line for line in namespace.run("conntrack -L -p tcp").stdout.splitlines() if line]
    return sum("ESTABLISHED" in line and "[ASSURED]" in line and "UNREPLIED" not in line for line in lines), len(lines)


def test_thousands_of_flows_each_counted_once(host: Namespace) -> None:
    """2000 flows in batches: each packet arrives through the interface, each entry ends whole."""
    fill(host, 2000)
    nonces = new_nonces([Hook.INPUT])
    gate(host, nonces[Hook.INPUT])
    with host, Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        assert (len(flows), flows.counts) == (2000, (2000,))
        assert flows.interfaces == {socket.if_nametoindex("eth0")}
        primed = prime(conntrack, flows, injector, recreate=True, nonces=nonces)
    assert (primed.primed, primed.recreated, primed.vanished, primed.failed, primed.unsent) == (2000, 2000, 0, {}, 0)
    assert gated(host) == 2000
    assert states(host) == (2000, 2000)


KILLED = """
import os, signal, sys
from nfkeep.conntrack import *
from nfkeep.model import Family, Hook
port = Condition(protocol=6, destination_ports=((873, 873),))
limited = [Selector(Hook.INPUT, (port,))]
batches = int(sys.argv[1])
def between():
    global batches
    if not batches:
        os.kill(os.getpid(), signal.SIGKILL)
    batches -= 1
with Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, limited) as flows:
    prime(conntrack, flows, injector, recreate=True, nonces={Hook.INPUT: 7}, batch=64, _between=between)
"""


@pytest.mark.parametrize("batch", [0, 2])
def test_killed_in_the_middle_no_flow_is_left_half_done(host: Namespace, batch: int) -> None:
    """SIGKILL between CREATE and the status: the guardian makes all entries whole, and is gone at once."""
    fill(host, 200)
    gate(host, 7)
    alive, held = os.pipe()  # its write end closes when the last of both processes is gone
    try:
        with host:
            done = subprocess.run([sys.executable, "-c", KILLED, str(batch)], cwd=ROOT, pass_fds=[held], check=False)
    finally:
        os.close(held)
    with open(alive, "rb") as end:
        assert end.read() == b""
    assert done.returncode == -signal.SIGKILL
    assert states(host) == (200, 200)
    assert "nfkeep" not in host.run("ip -brief link").stdout


def test_the_guardian_ends_with_the_run(host: Namespace) -> None:
    """No child, no zombie; and while it lives it holds neither stdin nor stdout nor stderr."""
    fill(host, 3)
    with host, Conntrack() as conntrack, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        primer = PrimerHandle(flows.handle, recreate=True, rejects=True, rounds=0, batch=2, nonces={}, taps=[], raw=-1)
        guardian = primer.guardian()
        assert guardian > 0
        deadline = threading.Event()
        while {"0", "1", "2"} & set(os.listdir(f"/proc/{guardian}/fd")):
            assert not deadline.wait(0.01)
        primer.close()
    assert not Path(f"/proc/{guardian}").exists()


def test_done_is_called_when_all_is_whole(host: Namespace) -> None:
    """Once, after the last batch."""
    fill(host, 5)
    nonces = new_nonces([Hook.INPUT])
    gate(host, nonces[Hook.INPUT])
    heard: list[tuple[int, tuple[int, int]]] = []

    def done() -> None:
        heard.append((gated(host), states(host)))

    with host, Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        prime(conntrack, flows, injector, recreate=True, nonces=nonces, batch=2, done=done)
    assert heard == [(5, (5, 5))]


def test_a_packet_that_cannot_be_sent_costs_no_flow(host: Namespace) -> None:
    """Without an injection device nothing is sent, and every entry is whole all the same."""
    fill(host, 5)
    with host, Conntrack() as conntrack, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        primer = PrimerHandle(flows.handle, recreate=True, rejects=True, rounds=0, batch=9, nonces={}, taps=[], raw=-1)
        assert primer.begin()
        primer.finish()
        result = primer.result()
        primer.close()
    assert (result.primed, result.unsent, result.recreated) == (0, 5, 5)
    assert states(host) == (5, 5)


def test_an_error_while_waiting_leaves_the_batch_whole(host: Namespace) -> None:
    """`settle` is interrupted: the batch is finished first, what was not begun is untouched."""
    fill(host, 50)
    nonces = new_nonces([Hook.INPUT])
    gate(host, nonces[Hook.INPUT])

    def settle(packets: object) -> None:
        raise KeyboardInterrupt

    with host, Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        injector.prepare(flows.interfaces)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Injector, "synchronous", lambda self, ifindex: False)
            with pytest.raises(KeyboardInterrupt):
                prime(conntrack, flows, injector, recreate=True, nonces=nonces, batch=20, settle=settle)
    assert states(host) == (50, 50)


def test_settle_hears_of_all_packets_so_far(host: Namespace) -> None:
    """Once per batch, with the totals."""
    fill(host, 50)
    heard: list[int] = []
    nonces = new_nonces([Hook.INPUT])
    gate(host, nonces[Hook.INPUT])

    def settle(packets: Mapping[Hook, int]) -> None:
        heard.append(packets[Hook.INPUT])

    with host, Conntrack() as conntrack, Injector() as injector, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Injector, "synchronous", lambda self, ifindex: False)
        flows = conntrack.select(Family.IPV4, [SELECTOR])
        prime(conntrack, flows, injector, recreate=True, nonces=nonces, batch=20, settle=settle)
        flows.close()
    assert heard == [20, 40, 50]


def test_an_interface_without_ethernet(host: Namespace) -> None:
    """Flows behind a tun device, which has no MAC header: their packets enter there all the same."""
    with host, open("/dev/net/tun", "r+b", buffering=0) as tun:
        ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"vpn0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        host.run("ip address add 10.77.0.1/16 dev vpn0")
        host.run("ip link set vpn0 up")
        fill(host, 40, subnet="10.77", here="10.77.0.1")
        nonces = new_nonces([Hook.INPUT])
        gate(host, nonces[Hook.INPUT])
        host.run(f"iptables-legacy -I INPUT -i vpn0 -p tcp --syn --dport {PORT}")
        on_vpn = Condition(protocol=6, in_interface=b"vpn0", in_interface_mask=b"\xff" * 5)
        wanted = [Selector(Hook.INPUT, (on_vpn,))]
        with Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, wanted) as flows:
            assert flows.interfaces == {socket.if_nametoindex("vpn0")}
            primed = prime(conntrack, flows, injector, recreate=True, nonces=nonces)
        assert primed.primed == 40
        assert gated(host) == 40
        assert host.run("iptables-legacy -vnxL INPUT 1").stdout.split()[0] == "40"
        assert states(host) == (40, 40)


def test_the_devices_are_gone_after_close(host: Namespace) -> None:
    """One per interface while open, none afterwards; asking twice makes no second one."""
    with host:
        with Injector() as injector:
            index = socket.if_nametoindex("eth0")
            injector.prepare([index])
            injector.prepare([index, 9999])
            assert [tap.target for tap in injector.taps] == [index]
            assert host.run("ip -brief link").stdout.count("nfkeep") == 1
        assert "nfkeep" not in host.run("ip -brief link").stdout


def test_the_interface_of_a_namespace_is_known_to_be_synchronous(host: Namespace) -> None:
    """Though /sys is the host's: the namespace has a sysfs of its own. The loopback never is."""
    with host, Injector() as injector:
        assert injector.synchronous(socket.if_nametoindex("eth0"))
        assert not injector.synchronous(socket.if_nametoindex("lo"))


def test_an_interface_that_sysfs_does_not_show_is_not_called_synchronous(host: Namespace) -> None:
    """Where only /sys is to be had, the host's: an eth0 of the host must not speak for ours."""
    with host, Injector() as injector, pytest.MonkeyPatch.context() as patch:
        patch.setattr("nfkeep.conntrack._ffi.open_sysfs", lambda: os.open("/sys", os.O_PATH | os.O_DIRECTORY))
        assert not injector.synchronous(socket.if_nametoindex("eth0"))


SYNCHRONOUS = """
import socket
from pathlib import Path
from nfkeep.conntrack import Injector
index = socket.if_nametoindex("one")
print(Injector().synchronous(index))
Path("/sys/class/net/one/queues/rx-0/rps_cpus").write_text("1")
print(Injector().synchronous(index))
"""


def test_packet_steering_is_seen() -> None:
    """With /sys of the namespace itself: synchronous until RPS is switched on."""
    script = 'mount -t sysfs none /sys && ip link add one type veth peer name two && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script, sys.executable, SYNCHRONOUS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_a_hook_without_a_nonce_is_refused(host: Namespace) -> None:
    """Nobody could drop the packets there; nothing is touched."""
    fill(host, 3)
    with host, Conntrack() as conntrack, Injector() as injector, conntrack.select(Family.IPV4, [SELECTOR]) as flows:
        assert flows.hooks == {Hook.INPUT}
        with pytest.raises(ValueError):
            prime(conntrack, flows, injector, recreate=True, nonces={Hook.FORWARD: 5})
    assert states(host) == (3, 3)


def test_without_dev_net_tun() -> None:
    """UnsupportedError says which file is missing."""
    code = (
        "import nfkeep.conntrack as c, nfkeep.errors as e, socket\n"
        "try: c.Injector().prepare([socket.if_nametoindex('lo')])\n"
        "except e.UnsupportedError as error: print(error.feature)"
    )
    script = 'mount -t tmpfs none /dev/net && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script, sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "/dev/net/tun"


def test_flows_under_fire_live_on(host: Namespace) -> None:
    """Entries recreated again and again while their flows send: none is lost, none stays half-done."""
    pairs, stop = [], threading.Event()
    with host:
        host.run("iptables-legacy -I INPUT -p tcp ! --syn -m conntrack --ctstate NEW,INVALID -j DROP")
        gate(host, 9)
        server = socket.create_server(("10.7.0.1", PORT))
        for _ in range(8):
            client = socket.create_connection(("10.7.0.1", PORT))
            pairs.append((client, server.accept()[0]))

    def fire() -> None:
        while not stop.is_set():
            for client, peer in pairs:
                client.send(b"x")
                peer.send(peer.recv(100))
                client.recv(100)

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        with host, Conntrack() as conntrack, Injector() as injector:
            for _ in range(100):
                with conntrack.select(Family.IPV4, [SELECTOR]) as flows:
                    assert len(flows) == 8
                    primed = prime(conntrack, flows, injector, recreate=True, nonces={Hook.INPUT: 9}, batch=8)
                    assert (primed.primed, primed.failed, primed.vanished) == (8, {}, 0)
    finally:
        stop.set()
        thread.join(10)
        for client, peer in pairs:
            client.close()
            peer.close()
        server.close()
    assert not thread.is_alive()
