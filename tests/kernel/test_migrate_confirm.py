"""`confirm` and the way back from it on a host that loads rules at boot: files, services, and what goes wrong."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest
from mover import MIGRATE, NEW, OLD, SYSTEMCTL, Mover, without_counters

from nfkeep import NfkeepError
from nfkeep.cli.migrate import main
from nfkeep.keep import rundir
from nfkeep.migrate.live import cutover, parking, persist, record
from nfkeep.testing import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from nfkeep.namespaces import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("own_directories")]


@pytest.fixture
def mover(namespace: Namespace) -> Mover:
    """A host with a rule."""
    namespace.run("iptables-legacy -A INPUT -s 192.0.2.1 -j DROP")
    return Mover(namespace)


@attrs.frozen
class Booting:
    """What stands for the host: its file, its services, and the command in its network namespace."""

    mover: Mover
    path: Path
    services: Path

    def __call__(self, *arguments: str) -> int:
        with self.mover.namespace:
            assert record.folder().name == record.HOST
            assert self.path == persist.CONFIGURATION  # not the real one
            return main(arguments)

    def boots(self) -> tuple[str, list[str]]:
        """The file, and the services that are enabled."""
        return self.path.read_text() if self.path.exists() else "", sorted(os.listdir(self.services))


@pytest.fixture
def host(mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Booting:
    tools, services, path = tmp_path / "tools", tmp_path / "services", tmp_path / "etc" / "nftables.conf"
    for each in (tools, services, path.parent):
        each.mkdir()
    (tools / "systemctl").write_text(SYSTEMCTL.format(folder=services))
    (tools / "systemctl").chmod(0o755)
    (services / "netfilter-persistent.service").touch()
    path.write_text("# mine\n")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(persist, "_SYSTEMD", tools)
    monkeypatch.setattr(persist, "CONFIGURATION", path)
    with mover.namespace:
        monkeypatch.setattr(record, "HOST", rundir.namespace())
    return Booting(mover, path, services)


OLD_BOOT = "# mine\n", ["netfilter-persistent.service"]


def test_confirmed_twice(host: Booting) -> None:
    """The second time changes nothing, and the way back is the way back from the first."""
    assert host("apply") == 0
    assert host("confirm") == 0
    text, services = host.boots()
    assert ("192.0.2.1" in text, services) == (True, ["nftables.service"])
    assert host("confirm") == 1
    assert host("rollback") == 0
    assert host.boots() == OLD_BOOT


def test_a_confirmation_that_is_refused(host: Booting, capsys: pytest.CaptureFixture[str]) -> None:
    """The rollback after it tells of nothing that it has not changed."""
    host("apply")
    host.mover.namespace.run("nft flush ruleset")
    assert host("confirm") == 1
    capsys.readouterr()
    assert host("rollback") == 0
    assert "service" not in (said := capsys.readouterr().out)
    assert "nftables.conf" not in said
    assert host.boots() == OLD_BOOT


def test_a_rollback_that_fails(
    host: Booting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What boots then is told; both ways are open from there."""

    def failing(*_: object, **__: object) -> None:
        raise NfkeepError("no lock")

    host("apply")
    for again in ("confirm", "rollback"):
        host("confirm")
        with monkeypatch.context() as patch:
            patch.setattr(cutover, "reload", failing)
            capsys.readouterr()
            assert host("rollback") == 1
        assert "netfilter-persistent.service is enabled again." in capsys.readouterr().out
        assert host.boots() == OLD_BOOT
        assert host(again) == 0
        assert (host.boots()[1] == ["nftables.service"]) == (again == "confirm")
    assert (host.boots(), host.mover.nft()) == (OLD_BOOT, "")


def test_no_tool_for_the_way_back(host: Booting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is confirmed then."""
    host("apply")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert host("confirm") == 1
    assert host.mover.status()["state"] == "applied"
    assert host.boots() == OLD_BOOT


@pytest.mark.parametrize("options", [[], ["--config", "nftables.conf"], ["--no-config"]], ids=" ".join)
def test_stopped_in_the_middle(
    mover: Mover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """`confirm` again finishes it, with any options."""
    monkeypatch.chdir(tmp_path)

    def failing(_: object) -> None:
        raise NfkeepError("no lock")

    mover("apply")
    with mover.namespace, monkeypatch.context() as patch:
        patch.setattr(parking, "empty", failing)
        assert main(["confirm", *options]) == 1
    assert "nft has the rules now" in mover.legacy()
    mover("confirm", *options)
    assert (mover.force(), "-A" in mover.legacy()) == (NEW, False)
    assert mover("confirm", *options, check=False).returncode == 1


def test_a_full_disk(mover: Mover, tmp_path: Path) -> None:
    """`confirm` can be had again, and nothing unfinished lies about."""
    folder = tmp_path / "full"
    folder.mkdir()
    mover("apply")
    small = f"mount -t tmpfs -o size=4k none {folder} && head -c 4096 /dev/zero >{folder}/zero"
    command = f"{shlex.join(MIGRATE)} confirm"
    script = f"{small}; {command} --config {folder}/nftables.conf; echo $?; ls {folder}; umount {folder}"
    done = mover.namespace.run(["unshare", "-m", "sh", "-c", script], env=dict(os.environ))
    assert done.stdout.split() == ["1", "zero"], (done.stdout, done.stderr)
    assert mover.status()["state"] == "confirmed"
    mover("confirm", "--config", str(tmp_path / "nftables.conf"))
    assert "192.0.2.1" in (tmp_path / "nftables.conf").read_text()


def test_what_nft_does_not_take(mover: Mover, tmp_path: Path) -> None:
    """Rules that iptables-nft has put among nft's are told before anything is confirmed."""
    mover("apply")
    mover.namespace.run("iptables-nft -I INPUT -m string --string abc --algo bm -j DROP")
    done = mover("confirm", "--config", str(tmp_path / "nftables.conf"), check=False)
    assert (done.returncode, "nft does not take its own rules" in done.stderr) == (1, True), done.stderr
    assert (mover.status()["state"], (tmp_path / "nftables.conf").exists()) == ("applied", False)


def test_a_table_of_another_program(mover: Mover, tmp_path: Path) -> None:
    """A table with an owner is left out of the file, and told."""
    config = tmp_path / "nftables.conf"
    mover("apply")
    with mover.namespace.popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as owner:
        assert owner.stdin is not None
        owner.stdin.write("add table inet theirs { flags owner; }\n")
        owner.stdin.flush()
        assert wait_until(lambda: "theirs" in mover.nft())
        said = mover("confirm", "--config", str(config)).stdout
        owner.stdin.close()
    assert "Not in it: the table inet theirs" in said
    assert "theirs" not in config.read_text()
    assert "table ip filter" in config.read_text()


def test_the_file_of_the_operator(mover: Mover, tmp_path: Path) -> None:
    """It keeps its place behind a link and its mode; each of its versions is kept; that it has nft's rules is told."""
    link, path = tmp_path / "link.conf", tmp_path / "nftables.conf"
    link.symlink_to(path)
    for text in ("# mine\n", "# mine, edited\r\n"):
        path.write_bytes(text.encode())
        path.chmod(0o600)
        mover("apply")
        mover("confirm", "--config", str(link))
        assert (link.is_symlink(), stat.S_IMODE(path.stat().st_mode)) == (True, 0o600)
        assert "192.0.2.1" in path.read_text()
        assert f"{path} still has the rules of nft." in mover("rollback").stdout
    kept = {each.read_bytes() for each in tmp_path.glob("nftables.conf.before-*")}
    assert kept == {b"# mine\n", b"# mine, edited\r\n"}


def test_elements_whose_comments_speak_of_counts(mover: Mover, tmp_path: Path) -> None:
    """Only the sets that count connections are written without their elements."""
    config = tmp_path / "nftables.conf"
    mover("apply")
    mover.namespace.run(["nft", "add set ip filter theirs { type ipv4_addr; }"])
    mover.namespace.run(["nft", 'add element ip filter theirs { 192.0.2.7 comment "} too high ct count today" }'])
    mover("confirm", "--config", str(config))
    assert "192.0.2.7" in config.read_text()


def test_rules_added_since(mover: Mover) -> None:
    """Those that others have put into iptables since the move go when it is confirmed, and are told."""
    mover("apply")
    mover.namespace.run("iptables-legacy -I INPUT -s 203.0.113.9 -j DROP")
    said = mover("confirm").stdout
    assert "added to iptables after the move: -s 203.0.113.9/32 -j DROP" in " ".join(said.split())
    assert "192.0.2.1" not in said
    mover("rollback")
    assert mover.force() == OLD
    assert "-A INPUT -s 192.0.2.1/32 -j DROP" in without_counters(mover.legacy())
