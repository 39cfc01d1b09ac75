"""`nfkeep-migrate verify`: what it prints, and its exit status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nfkeep import Family, migrate
from nfkeep.cli.migrate import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kernel

SAVE = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -s 198.51.100.0/24 -j DROP
COMMIT
"""


@pytest.fixture
def save(tmp_path: Path) -> str:
    """A file with rules."""
    (tmp_path / "rules").write_text(SAVE)
    return str(tmp_path / "rules")


def test_our_own_translation(save: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a script, what is tried is the translation; it is equal, and the status is 0."""
    assert main(["verify", save, "--packets", "200"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(" packets, 0 treated differently\n")
    assert err == ""


def test_a_script_that_does_something_else(save: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The packets that differ are told with what became of them, and the status is 5."""
    script = migrate.translate(SAVE, Family.IPV4).script.replace("ip saddr 198", "ip saddr 199")
    (tmp_path / "script").write_text(script)
    assert main(["verify", save, str(tmp_path / "script"), "--packets", "200"]) == 5
    out = capsys.readouterr().out
    assert "  iptables: dropped" in out
    assert "-A FORWARD -s 198.51.100.0/24 -j DROP" in out
    assert main(["verify", save, str(tmp_path / "script"), "--packets", "200", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is False
    assert set(told["mismatches"][0]) == {"packet", "iptables", "nft", "rules", "together"}


def test_a_script_that_nft_refuses(save: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and status 1."""
    (tmp_path / "script").write_text("table ip filter { chain INPUT { nonsense } }\n")
    assert main(["verify", save, str(tmp_path / "script")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nfkeep-migrate: nft refuses: ")
    assert err.count("\n") == 1


def test_joined_rules_do_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script that `translate --optimize` makes treats every packet as the rules do."""
    rules = [f"-A FORWARD -s 198.51.100.{n}/32 -j {'DROP' if n < 9 else 'ACCEPT'}" for n in range(1, 17)]
    ports = [f"-A FORWARD -p udp -m udp --dport {n}:{n + 2} -m state --state NEW -j DROP" for n in range(20, 80, 4)]
    lines = SAVE.splitlines()
    (tmp_path / "rules").write_text("\n".join([*lines[:-2], *rules, *ports, *lines[-2:], ""]))
    assert main(["translate", str(tmp_path / "rules"), "--optimize"]) == 0
    script = capsys.readouterr().out
    assert "ip saddr vmap @FORWARD-ip-saddr" in script
    assert "udp dport @FORWARD-udp-dport" in script
    (tmp_path / "script").write_text(script)
    assert main(["verify", str(tmp_path / "rules"), str(tmp_path / "script"), "--packets", "800"]) == 0
