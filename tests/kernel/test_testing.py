"""nfkeep.testing holds what it promises: real connections through the real kernel, and nothing left behind.

Other tests build on these tools, so here they are shown the faults that they must see.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nfkeep.model import Family
from nfkeep.testing import (
    CommandFailedError,
    EchoServer,
    Gateway,
    Namespace,
    add_address,
    add_route,
    close_all,
    dial,
    living,
    pair,
    sysctl,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nfkeep.testing import Connection, Kind
    from nfkeep.testing.fixtures import Dialer, EchoServerFactory, GatewayFactory, TransferFactory

pytestmark = pytest.mark.kernel

PORT = 873
LO = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
IPTABLES = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}

families = pytest.mark.parametrize("family", list(Family), ids=str)
kinds = pytest.mark.parametrize("kind", ["tcp", "udp"])


class TestNamespace:
    def test_with_moves_the_thread_and_back(self, namespace: Namespace) -> None:
        """Inside the block the thread is in the namespace, after it where it was; other threads never move."""
        home, seen, moved = _inode(), [], threading.Event()

        def look() -> None:
            moved.wait()
            seen.append(_inode())

        other = threading.Thread(target=look)
        other.start()
        with namespace:
            inside = _inode()
            moved.set()
            other.join()
        assert (inside, _inode(), seen) == (namespace.inode, home, [home])
        assert namespace.inode != home

    def test_nests(self, namespace_factory: Callable[[], Namespace]) -> None:
        """The same namespace twice, and another one between: each block ends where it began."""
        a, b = namespace_factory(), namespace_factory()
        home, way = _inode(), []
        with a:
            with b:
                with a:
                    way.append(_inode())
                way.append(_inode())
            way.append(_inode())
        assert [*way, _inode()] == [a.inode, b.inode, a.inode, home]

    def test_an_exception_leaves_it(self, namespace: Namespace) -> None:
        """An exception out of the block takes the thread home as well."""
        home = _inode()
        with pytest.raises(ZeroDivisionError), namespace:
            _ = 1 / 0
        assert _inode() == home

    def test_threads_are_in_different_ones(self, namespace_factory: Callable[[], Namespace]) -> None:
        """Two threads, each in its own namespace at the same time, see their own /proc/thread-self/net and sysctls."""
        spaces = [namespace_factory(), namespace_factory()]
        for number, space in enumerate(spaces):
            space.run(f"ip link add only{number} type veth peer name peer{number}")
        together, seen = threading.Barrier(2), {}

        def look(number: int) -> None:
            with spaces[number]:
                together.wait()
                seen[number] = Path("/proc/thread-self/net/dev").read_text()
                sysctl(spaces[number], f"net/ipv4/conf/only{number}/rp_filter", number)
                together.wait()

        threads = [threading.Thread(target=look, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [[f"only{n}" in seen[number] for n in range(2)] for number in range(2)] == [[True, False], [False, True]]
        assert [sysctl(space, f"net.ipv4.conf.only{n}.rp_filter") for n, space in enumerate(spaces)] == ["0", "1"]

    def test_run_says_what_the_command_said(self, namespace: Namespace) -> None:
        """`run` feeds stdin, returns stdout, and its error carries the exit status and the command's own words."""
        assert namespace.run(["cat"], input="through").stdout == "through"
        assert namespace.run("ip -br link").stdout.split()[:2] == ["lo", "UNKNOWN"]
        with pytest.raises(CommandFailedError, match="does not exist") as failed:
            namespace.run("ip link show dev nowhere")
        assert failed.value.returncode == 1
        assert namespace.run("ip link show dev nowhere", check=False).returncode == 1

    def test_run_is_timed(self, namespace: Namespace) -> None:
        """A command that outlives its timeout is killed."""
        with pytest.raises(subprocess.TimeoutExpired):
            namespace.run("sleep 60", timeout=0.05)

    def test_path_is_for_any_process(self, namespace: Namespace) -> None:
        """`nsenter --net=PATH` from elsewhere arrives in it."""
        found = subprocess.run(
            ["nsenter", f"--net={namespace.path}", "readlink", "/proc/self/ns/net"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert found.strip() == f"net:[{namespace.inode}]"

    def test_close_ends_what_popen_started(self) -> None:
        """`close` kills a command that still runs, and is idempotent."""
        space = Namespace()
        process = space.popen("sleep 60")
        space.close()
        space.close()
        assert process.returncode == -signal.SIGKILL
        assert repr(space) == "<Namespace closed>"

    def test_closed_one_is_gone(self, namespace: Namespace) -> None:
        """After `close` the kernel removes the namespace, whatever connections were made in it."""
        with Gateway.build() as net:
            pair(namespace, "there", net.server, "back")
            admitted = _through(net, Family.IPV4, "tcp", count=10)
            gone = _link_watch(namespace, "there")
        close_all(admitted, timeout=0.0)
        gone()

    def test_sigkill_leaves_nothing(self, namespace: Namespace) -> None:
        """A process that dies by SIGKILL takes its namespaces with it."""
        script = (
            "import sys\n"
            "from nfkeep.testing import Namespace\n"
            "ns = Namespace()\n"
            "ns.run(f'ip link add name here type veth peer name there netns {sys.argv[1]}')\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", script, namespace.path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            gone = _link_watch(namespace, "there")
            process.kill()
        gone()


class TestTopology:
    def test_pair_and_route(self, namespace_factory: Callable[[], Namespace], echo_server: EchoServerFactory) -> None:
        """Two namespaces with a cable, an address and a route reach each other."""
        a, b = namespace_factory(), namespace_factory()
        pair(a, "eth0", b, "eth0")
        add_address(a, "eth0", "192.0.2.1/24", "2001:db8::1/64")
        add_address(b, "eth0", "192.0.2.2/24", "2001:db8::2/64")
        add_address(b, "lo", "198.51.100.1", "2001:db8:1::1")
        add_route(a, "default", "192.0.2.2")
        add_route(a, "2001:db8:1::/64", "2001:db8::2")
        add_route(a, "default", "2001:db8::2")
        for family, address in ((Family.IPV4, "198.51.100.1"), (Family.IPV6, "2001:db8:1::1")):
            with echo_server(b, family, "tcp", address, PORT):
                [connection] = dial(a, family, "tcp", address, PORT)
                connection.close()

    @families
    @kinds
    def test_gateway_forwards(self, gateway: Gateway, family: Family, kind: Kind) -> None:
        """Client and server reach each other through the gateway at once, with both protocols of both families."""
        admitted = _through(gateway, family, kind, count=10)
        assert len(admitted) == 10
        assert {connection.local[0] for connection in admitted} == {str(gateway.client_addresses(family)[0])}
        close_all(admitted, timeout=0.0)

    @families
    def test_many_client_addresses(
        self,
        gateway_factory: GatewayFactory,
        echo_server: EchoServerFactory,
        dialer: Dialer,
        transfer: TransferFactory,
        family: Family,
    ) -> None:
        """2,000 connections from 200 addresses behind strict rp_filter, 50 of them transferring: all live, ten each."""
        net = gateway_factory(200, rp_filter=1)
        server = net.server_address(family)
        echo_server(net.server, family, "tcp", server, PORT)
        clients = net.client_addresses(family)
        admitted = dialer(net.client, family, "tcp", server, PORT, 2000, source=clients, timeout=10.0)
        assert len(admitted) == 2000
        assert [connection.local[0] for connection in admitted[:200]] == [str(client) for client in clients]
        transfers = [transfer(connection) for connection in admitted[:50]]
        assert all(one.wait_for(8192) for one in transfers)
        results = [one.stop() for one in transfers]
        assert all(result.intact for result in results)
        assert len(living(admitted, timeout=10.0)) == 2000


class TestTraffic:
    @families
    @kinds
    def test_ten_echo(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, family: Family, kind: Kind
    ) -> None:
        """Ten connections are admitted, echo, and go on echoing."""
        server = echo_server(namespace, family, kind, LO[family])
        admitted = dialer(namespace, family, kind, LO[family], server.port, 10)
        assert len(admitted) == 10
        assert [connection.alive() for connection in admitted] == [True] * 10
        assert living(admitted) == admitted

    @families
    @kinds
    def test_banned_are_not_admitted(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, family: Family, kind: Kind
    ) -> None:
        """Behind a DROP rule nobody is admitted, in one timeout for all, and those from before are not alive."""
        server = echo_server(namespace, family, kind, LO[family], PORT)
        [before] = dialer(namespace, family, kind, LO[family], PORT)
        namespace.run(f"{IPTABLES[family]} -A INPUT -p {kind} --dport {PORT} -j DROP")
        assert dialer(namespace, family, kind, LO[family], PORT, 100, timeout=0.5) == []
        assert not before.alive(timeout=0.2)
        namespace.run(f"{IPTABLES[family]} -F INPUT")
        assert before.alive(timeout=5.0)
        assert server.accepted == (1 if kind == "tcp" else 0)

    @pytest.mark.parametrize(
        "target",
        ["INPUT -j REJECT", "INPUT -p tcp -j REJECT --reject-with tcp-reset", "OUTPUT -p tcp --syn -j DROP"],
    )
    def test_refused_are_not_admitted(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, target: str
    ) -> None:
        """Refusals of every kind are a verdict, not an error."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        namespace.run(f"iptables-legacy -A {target}")
        assert dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port, 3, timeout=0.3) == []

    def test_some_are_admitted(self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer) -> None:
        """Under a limit of ten, fourteen dialled at once make ten, and a closed one makes room for exactly one."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4], PORT)
        limit = "-m connlimit --connlimit-above 10 -j REJECT --reject-with tcp-reset"
        namespace.run(f"iptables-legacy -A INPUT -p tcp --syn --dport {PORT} {limit}")
        admitted = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], PORT, 14)
        assert len(admitted) == 10
        admitted[0].close()
        assert len(dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], PORT, 4)) == 1
        assert server.wait_for(lambda seen: seen.open == 10)

    def test_missing_source_is_an_error(self, namespace: Namespace, echo_server: EchoServerFactory) -> None:
        """A source address that the namespace lacks is the test's fault, not a verdict."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        with pytest.raises(OSError, match="assign requested address"):
            dial(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port, source="203.0.113.1")

    def test_closed_and_aborted_are_told_apart(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer
    ) -> None:
        """The server sees an orderly end as closed and an abort as a reset; neither is alive after it."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        admitted = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port, 5)
        close_all(admitted[:2])
        for connection in admitted[2:]:
            connection.abort()
        assert server.wait_for(lambda seen: seen.open == 0)
        assert (server.closed, server.resets) == (2, 3)
        assert living(admitted) == []

    def test_server_that_ends_is_seen(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer
    ) -> None:
        """When the server goes away its connections are dead at once."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        admitted = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port, 5)
        server.close()
        assert living(admitted) == []

    def test_nothing_is_polled_twice(self) -> None:
        """`wait_until` returns as soon as the predicate holds, and False when it never does."""
        calls = iter([False, False, True])
        assert wait_until(lambda: next(calls), interval=0.0)
        assert not wait_until(lambda: False, timeout=0.0)


class TestTransfer:
    def test_counts_every_byte(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, transfer: TransferFactory
    ) -> None:
        """An undisturbed transfer is intact, and leaves its connection usable."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        [connection] = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port)
        running = transfer(connection, chunk_bytes=100_000, pause_seconds=0.0)
        assert running.wait_for(1_000_000)
        result = running.stop()
        assert result.intact
        assert result.echoed_bytes >= 1_000_000
        assert running.stop() is result
        assert connection.alive()

    def test_sees_a_reset(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, transfer: TransferFactory
    ) -> None:
        """A rule that resets the connection ends the transfer, and the result says so."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        [connection] = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port)
        running = transfer(connection)
        assert running.wait_for(1)
        reject = "-j REJECT --reject-with tcp-reset"
        namespace.run(f"iptables-legacy -A INPUT -p tcp --dport {server.port} {reject}")
        assert not running.wait_for(1 << 30)
        assert running.broken
        result = running.stop()
        assert (result.reset, result.corrupt, result.stalled, result.intact) == (True, False, False, False)
        assert result.error is not None

    def test_sees_silence(
        self, namespace: Namespace, echo_server: EchoServerFactory, dialer: Dialer, transfer: TransferFactory
    ) -> None:
        """A connection that no packet passes is stalled, which is not a reset."""
        server = echo_server(namespace, Family.IPV4, "tcp", LO[Family.IPV4])
        [connection] = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], server.port)
        namespace.run(f"iptables-legacy -A INPUT -p tcp --dport {server.port} -j DROP")
        result = transfer(connection).stop(timeout=0.3)
        assert (result.reset, result.corrupt, result.stalled, result.intact) == (False, False, True, False)

    def test_sees_a_wrong_byte(self, namespace: Namespace, dialer: Dialer, transfer: TransferFactory) -> None:
        """One byte changed on the way is corruption."""
        with namespace, socket.create_server((LO[Family.IPV4], 0)) as listener:
            liar = threading.Thread(target=_lie, args=(listener,))
            liar.start()
            [connection] = dialer(namespace, Family.IPV4, "tcp", LO[Family.IPV4], listener.getsockname()[1])
            running = transfer(connection)
            assert not running.wait_for(1 << 30)
            result = running.stop()
            connection.abort()
            liar.join()
        assert (result.reset, result.corrupt, result.stalled, result.intact) == (False, True, False, False)


def test_example_of_the_documentation(tmp_path: Path) -> None:
    """The example in docs/testing.md runs as it is printed there."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    for name, text in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(text)
    assert sorted(os.listdir(tmp_path)) == ["conftest.py", "test_my_firewall.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def _inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _through(net: Gateway, family: Family, kind: Kind, count: int) -> list[Connection]:
    """Connections that echoed through the gateway, to a server that is gone by now."""
    address = net.server_address(family)
    with EchoServer(net.server, family, kind, address, PORT):
        admitted = dial(net.client, family, kind, address, PORT, count)
        assert living(admitted) == admitted
    return admitted


def _link_watch(namespace: Namespace, device: str) -> Callable[[], None]:
    """Listen for the end of `device` from now on; the returned function waits for it and closes the socket."""
    with namespace:
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    events.bind((0, 1))  # RTMGRP_LINK
    events.settimeout(30.0)

    def gone() -> None:
        with events:
            while True:
                message = events.recv(65536)
                if int.from_bytes(message[4:6], sys.byteorder) == 17 and device.encode() + b"\0" in message:
                    return  # RTM_DELLINK

    return gone


def _lie(listener: socket.socket) -> None:
    """Echo one connection truthfully for its first 1,000 bytes, and then with a byte changed."""
    connection = listener.accept()[0]
    echoed = 0
    with connection:
        try:
            while data := connection.recv(512):
                connection.sendall(data if echoed < 1000 else bytes([data[0] ^ 1]) + data[1:])
                echoed += len(data)
        except ConnectionResetError:
            pass
