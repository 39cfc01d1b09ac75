"""Nobody is locked out for good: ssh over rules that are moved, and what becomes of the watch that undoes the move."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from mover import MIGRATE

from nfkeep import Family
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfkeep.namespaces import Namespace
    from nfkeep.testing import Gateway

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600), pytest.mark.usefixtures("own_directories")]

SSHD, PORT = Path("/usr/sbin/sshd"), 2022
RULES = f"""*filter
:INPUT DROP [0:0]
-A INPUT -p tcp -m tcp --dport {PORT} -j ACCEPT
COMMIT
"""
CONFIG = """Port {port}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
# sshd wants this directory; the mount is its own.
IN_ITS_OWN_RUN = "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec {sshd} -D -e -f {folder}/config"


@attrs.frozen
class Remote:
    """A host that is reached by ssh only."""

    network: Gateway
    folder: Path

    @property
    def host(self) -> Namespace:
        return self.network.gateway

    def ssh(self, command: str) -> list[str]:
        """The command that runs a command there, with the environment of this process."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("NFKEEP", "XTABLES", "PYTHON"))}
        there = ["env", *(f"{name}={value}" for name, value in kept.items()), "sh", "-c", command]
        options = [
            "BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={self.folder}/known", "ConnectTimeout=1",
            f"IdentityFile={self.folder}/client", "IdentitiesOnly=yes", "LogLevel=ERROR",
        ]  # fmt: skip
        words = ["ssh", "-F", "none", "-tt", "-p", str(PORT), *(word for each in options for word in ("-o", each))]
        return [*words, f"root@{self.network.gateway_address(Family.IPV4)}", shlex.join(there)]

    def reachable(self) -> bool:
        return self.network.client.run(self.ssh("true"), check=False).returncode == 0

    def status(self) -> str:
        return self.host.run([*MIGRATE, "status"], env=dict(os.environ)).stdout


@pytest.fixture
def remote(gateway: Gateway, tmp_path: Path) -> Iterator[Remote]:
    """sshd on the gateway, which lets in nothing else."""
    if not SSHD.exists():
        pytest.skip("there is no sshd here")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    address = gateway.gateway_address(Family.IPV4)
    (tmp_path / "config").write_text(CONFIG.format(port=PORT, address=address, folder=tmp_path))
    gateway.gateway.run("iptables-legacy-restore", input=RULES)
    command = IN_ITS_OWN_RUN.format(sshd=SSHD, folder=tmp_path)
    with (tmp_path / "sshd.log").open("w") as log:
        daemon = gateway.gateway.popen(["unshare", "--mount", "sh", "-c", command], stdout=log, stderr=log)
    remote = Remote(gateway, tmp_path)
    try:
        assert wait_until(remote.reachable, timeout=20.0), (tmp_path / "sshd.log").read_text()
        yield remote
    finally:
        daemon.terminate()
        daemon.wait()


def watch(host: Namespace) -> int | None:
    """The process that waits for the confirmation in this namespace."""
    found = subprocess.run(["pgrep", "-f", "nfkeep.migrate.live.watch"], capture_output=True, text=True, check=False)
    for pid in map(int, found.stdout.split()):
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == host.inode:
                return pid
        except OSError:  # it has ended
            continue
    return None


def test_ssh_is_shut_out_and_comes_back(remote: Remote) -> None:
    """A rule that somebody adds to nft's shuts ssh out; when nobody confirms, the host is reached again."""
    remote.host.run([*MIGRATE, "apply", "--confirm", "5"], env=dict(os.environ))
    remote.host.run(f"nft insert rule ip filter INPUT tcp dport {PORT} drop")
    assert not remote.reachable()
    assert wait_until(remote.reachable, timeout=30.0)
    assert "The move is rolled back. In force: iptables." in remote.status()


def test_the_session_dies_right_after(remote: Remote) -> None:
    """The move is made inside the session that it shuts out: all of that is killed, and the move is undone."""
    command = (
        f"echo $$ > {remote.folder}/session; {shlex.join(MIGRATE)} apply --confirm 4 && echo moved; exec sleep 600"
    )
    session = remote.network.client.popen(remote.ssh(command), stdout=subprocess.PIPE)
    assert session.stdout is not None
    assert any(line.strip() == "moved" for line in session.stdout)
    remote.host.run(f"nft insert rule ip filter INPUT tcp dport {PORT} drop")
    leader = int((remote.folder / "session").read_text())
    waiting = watch(remote.host)
    assert waiting is not None
    assert os.getsid(waiting) != os.getsid(leader)
    os.killpg(os.getpgid(leader), signal.SIGKILL)
    session.kill()
    session.wait()
    assert wait_until(remote.reachable, timeout=30.0)
    assert "The move is rolled back. In force: iptables." in remote.status()


def test_the_watch_is_killed(remote: Remote) -> None:
    """The rules stay as they are, and status does not promise that anything is undone."""
    remote.host.run([*MIGRATE, "apply", "--confirm", "300"], env=dict(os.environ))
    assert "It is undone in" in remote.status()
    waiting = watch(remote.host)
    assert waiting is not None
    os.kill(waiting, signal.SIGKILL)
    assert wait_until(lambda: watch(remote.host) is None)
    said = remote.status()
    assert "In force: nft." in said
    assert "It is undone in" not in said
    assert "nobody waits" in said
    remote.host.run([*MIGRATE, "rollback"], env=dict(os.environ))
    assert remote.reachable()
