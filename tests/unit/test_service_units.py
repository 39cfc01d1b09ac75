"""The units of nfkeepd: they say what systemd understands, and take from the service all that it does not need."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nfkeep.service.config import Config
from nfkeep.service.config_file import load

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"

CONFINEMENT = {
    "User": "nfkeepd",
    "AmbientCapabilities": "CAP_NET_ADMIN",
    "CapabilityBoundingSet": "CAP_NET_ADMIN",
    "NoNewPrivileges": "yes",
    "UMask": "0077",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectControlGroups": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "RestrictAddressFamilies": "AF_UNIX AF_NETLINK",
    "IPAddressDeny": "any",
    "RestrictNamespaces": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service ~@privileged @resources",
}


def unit(name: str) -> dict[str, dict[str, str]]:
    """Sections, keys and values; of a key that comes more than once the values in a row."""
    found: dict[str, dict[str, str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(header[1], {})
        elif line and line[0] not in "#;":
            key, value = line.split("=", 1)
            section[key] = f"{section[key]} {value}" if key in section else value
    return found


def test_the_service_is_confined() -> None:
    """Every directive that takes something from the service is there."""
    service = unit("nfkeepd.service")["Service"]
    assert {key: service.get(key) for key in CONFINEMENT} == CONFINEMENT


def test_the_service_says_when_it_is_ready() -> None:
    """systemd waits for READY=1, reloads with SIGHUP, and checks the configuration first."""
    service = unit("nfkeepd.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["ExecStart"] == "nfkeepd --config /etc/nfkeep/nfkeepd.conf"
    assert service["ExecStartPre"] == f"{service['ExecStart']} --check"


def test_the_socket_is_for_the_group() -> None:
    """The socket is where the service looks for it by default, and open to its group only."""
    socket = unit("nfkeepd.socket")["Socket"]
    assert socket["ListenStream"] == Config(()).socket
    assert (socket["SocketMode"], socket["SocketGroup"]) == ("0660", "nfkeepd")
    assert unit("nfkeepd.service")["Unit"]["Requires"] == "nfkeepd.socket"


def test_the_user_is_made() -> None:
    """sysusers makes the user that the service runs as."""
    lines = [line for line in (UNITS / "nfkeepd.sysusers").read_text().splitlines() if line[:1] not in ("#", "")]
    assert [line.split()[:3] for line in lines] == [["u", "nfkeepd", "-"]]


def test_the_sample_is_valid_and_shows_the_defaults(tmp_path: Path) -> None:
    """The sample can be used as it is; what is commented out in it is what holds without it."""
    text = (UNITS / "nfkeepd.conf").read_text().replace("www-data", "0").replace("= nfkeepd\n", "= 0\n")
    (tmp_path / "as-it-is").write_text(text)
    (tmp_path / "in-full").write_text(re.sub(r"^#(?=\w+ =)", "", text, flags=re.MULTILINE).replace("\nreject", "\n#"))
    as_it_is, in_full = load(tmp_path / "as-it-is"), load(tmp_path / "in-full")
    told = {"group", "lists"}
    for field in Config.__attrs_attrs__:  # type: ignore[attr-defined]  # attrs adds it
        if field.name not in told:
            assert getattr(as_it_is, field.name) == getattr(in_full, field.name), field.name
    for key in ("operations", "rate", "max_entries"):
        assert getattr(as_it_is.lists[0], key) == getattr(in_full.lists[0], key), key
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(tmp_path / "in-full")
    assert {*parser["nfkeepd"]} == {field.name for field in Config.__attrs_attrs__} - {"lists"}  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and `security` finds an exposure below 2 of 10."""
    for name in ("nfkeepd.service", "nfkeepd.socket"):
        text = (UNITS / name).read_text().replace("=nfkeepd --config", "=/bin/true --config")
        (tmp_path / name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", "./nfkeepd.service", "./nfkeepd.socket"]
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if "nfkeepd" in line]
    assert (done.returncode, own) == (0, [])
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "./nfkeepd.service"]
    done = subprocess.run(security, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
