"""A virtual machine with Debian's kernel 6.1 and systemd, whose disk outlives its boots and loses what was not synced.

Its root is an ext4 image of its own; of the host it sees /usr, the virtual environment and nfkeep, read-only. What it
has not written to its disk is gone when it is killed: neither its kernel nor qemu keeps any of it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nfkeep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

QEMU = "qemu-system-x86_64"
BOOT_SECONDS = 600
"""After so long a machine is given up; on a busy host, emulated, it takes a minute."""

_AGENT = Path(__file__).parent / "vm" / "agent.py"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4", "crc32c_generic", "9p", "9pnet_virtio")
# Nothing is written sooner than it is synced: by default ext4 does so after five seconds, and when a file is replaced.
_ROOT = "noauto_da_alloc,commit=3600"
_INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc none /proc
$bb mount -t devtmpfs none /dev
for module in $($bb cat /modules); do $bb insmod /lib/$module; done
$bb mount -t ext4 -o {options} /dev/vda /root || exec $bb poweroff -f
$bb echo 360000 >/proc/sys/vm/dirty_writeback_centisecs
$bb mount -t 9p -o ro,version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose host /host
for folder in {folders}; do $bb mount -o bind "/host$folder" "/root$folder"; done
exec $bb switch_root /root /usr/lib/systemd/systemd
"""
_SERVICE = """[Unit]
After=sysinit.target network-pre.target
[Service]
Environment=PATH={prefix}/bin:/usr/sbin:/usr/bin PYTHONDONTWRITEBYTECODE=1
StandardError=tty
ExecStart={prefix}/bin/python {agent}
[Install]
WantedBy=multi-user.target
"""
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
# Of what these do nothing is looked at, and they take their time.
_MASKED = (
    "getty.target", "systemd-logind.service", "systemd-udevd.service", "systemd-udev-trigger.service",
    "systemd-udevd-kernel.socket", "systemd-udevd-control.socket", "systemd-networkd.service", "dbus.service",
    "dbus.socket", "systemd-user-sessions.service", "systemd-remount-fs.service", "dev-hugepages.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-update-utmp.service", "e2scrub_reap.service",
    "systemd-update-utmp-runlevel.service", "ldconfig.service", "systemd-hwdb-update.service", "systemd-pstore.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "kmod-static-nodes.service", "dev-mqueue.mount",
    "modprobe@.service", "systemd-sysusers.service", "systemd-sysctl.service", "systemd-random-seed.service",
    "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket",
    "systemd-journald-audit.socket", "systemd-journal-flush.service", "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-setup-dev.service", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
    "systemd-modules-load.service",
)  # fmt: skip


def kernel() -> Path | None:
    """Debian's kernel of the 6.1 line, if it is installed."""
    return max(Path("/boot").glob("vmlinuz-6.1*"), default=None)


class Machine:
    """A machine that is off at first. `files`: what its disk begins with, by absolute path; `services`: are enabled."""

    def __init__(self, folder: Path, files: Mapping[str, str], services: Sequence[str] = ()) -> None:
        found = kernel()
        assert found is not None
        self._folder, self._kernel = folder, found
        self._disk, self._first = folder / "disk", folder / "initramfs"
        self.boots = 0
        self._folders = _shared()
        _make_disk(self._disk, files, services, self._folders)
        _make_initramfs(self._first, found.name.removeprefix("vmlinuz-"), self._folders)

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def boot(self) -> None:
        """Start it, and wait until it takes commands."""
        self.boots += 1
        # sockets have short names only
        with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{short}/agent")
            server.listen(1)
            self._qemu = subprocess.Popen(
                self._command(f"{short}/agent"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            server.settimeout(BOOT_SECONDS)
            self._channel, _ = server.accept()
        self._channel.settimeout(BOOT_SECONDS)
        self._lines = self._channel.makefile("r", encoding="utf-8")
        assert self._hear() == "here"

    def begin(self, command: str) -> None:
        """Have it run a command; returns when it begins to."""
        self._channel.sendall(json.dumps(command).encode() + b"\n")
        assert self._hear() == "begun"

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """What came of a command."""
        self.begin(command)
        status, out, err = self._hear()
        assert status == 0 or not check, f"{command}: {out}{err}"
        return subprocess.CompletedProcess(command, status, out, err)

    def cut(self) -> None:
        """Cut its power."""
        self._qemu.kill()
        self._end()

    def reboot(self) -> None:
        """Have it shut down in good order, and start it again."""
        self._channel.sendall(json.dumps("systemctl reboot").encode() + b"\n")
        self._qemu.wait(BOOT_SECONDS)
        self._end()
        self.boot()

    def _end(self) -> None:
        self._qemu.wait()
        self._lines.close()
        self._channel.close()

    def _hear(self) -> object:
        line = self._lines.readline()
        assert line, f"it has died, see {self._folder}/console.{self.boots}"
        return json.loads(line)

    def _command(self, channel: str) -> list[str]:
        return [
            QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G", "-nodefaults",
            "-display", "none", "-no-reboot", "-kernel", str(self._kernel), "-initrd", str(self._first),
            "-append", "console=ttyS0 panic=-1 mitigations=off systemd.show_status=1",
            "-serial", f"file:{self._folder}/console.{self.boots}",
            "-drive", f"file={self._disk},if=virtio,format=raw,cache=writeback",
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={channel}",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]  # fmt: skip


def _shared() -> list[str]:
    """The folders of the host that it sees."""
    wanted = {"/usr", sys.base_prefix, sys.prefix, str(Path(nfkeep.__file__).parent.parent), str(_AGENT.parent)}
    return sorted(each for each in wanted if not any(each.startswith(f"{other}/") for other in wanted))


def _make_disk(disk: Path, files: Mapping[str, str], services: Sequence[str], folders: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        tree.chmod(0o755)
        for folder in ("dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/log", "var/tmp", *folders):
            (tree / folder.strip("/")).mkdir(parents=True, exist_ok=True)
        for link, to in _LINKS.items():
            (tree / link).symlink_to(to)
        units = "/etc/systemd/system"
        whole = {
            "/etc/fstab": "", "/etc/machine-id": "0123456789abcdef0123456789abcdef\n", "/etc/hostname": "machine\n",
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "/etc/group": "root:x:0:\n",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nprotocols: files\nservices: files\n",
            f"{units}/agent.service": _SERVICE.format(prefix=sys.prefix, agent=_AGENT), **files,
        }  # fmt: skip
        for path, text in whole.items():
            (tree / path.strip("/")).parent.mkdir(parents=True, exist_ok=True)
            (tree / path.strip("/")).write_text(text)
        for name in ("protocols", "services", "ld.so.cache"):
            shutil.copy(f"/etc/{name}", tree / "etc")
        (tree / "etc/systemd/system-generators").mkdir()
        for path in (*(f"{units}/{unit}" for unit in _MASKED), *_generators()):
            (tree / path.strip("/")).symlink_to("/dev/null")
        enable = ["systemctl", "--quiet", f"--root={tree}", "enable", "agent.service", *services]
        subprocess.run(enable, check=True)
        (tree / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, "128M"], check=True)


def _generators() -> list[str]:
    """What would make units of files that there are not, which takes a second each."""
    return [f"/etc/systemd/system-generators/{each}" for each in os.listdir("/usr/lib/systemd/system-generators")]


def _make_initramfs(path: Path, release: str, folders: list[str]) -> None:
    """A first root that mounts the second: busybox, the modules that this takes, and a script."""
    needed = ["modprobe", "-S", release, "--show-depends", "-a", *_MODULES]
    said = subprocess.run(needed, capture_output=True, text=True, check=True).stdout
    modules = dict.fromkeys(line.split()[1] for line in said.splitlines() if line.startswith("insmod"))
    busybox = shutil.which("busybox")
    assert busybox is not None
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for folder in ("bin", "lib", "dev", "proc", "root", "host"):
            (tree / folder).mkdir()
        shutil.copy(busybox, tree / "bin")
        for module in modules:
            shutil.copy(module, tree / "lib")
        (tree / "modules").write_text("\n".join(Path(module).name for module in modules))
        (tree / "init").write_text(_INIT.format(options=_ROOT, folders=" ".join(folders)))
        (tree / "init").chmod(0o755)
        names = "\n".join(str(each.relative_to(tree)) for each in sorted(tree.rglob("*")))
        with path.open("wb") as file:
            subprocess.run(
                ["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=file, check=True
            )
