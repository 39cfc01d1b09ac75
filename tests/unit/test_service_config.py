"""The configuration of nfkeepd is read strictly: what is misspelt is an error that says where, and no limit less."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import nfkeep
from nfkeep import NfkeepError
from nfkeep.service import words
from nfkeep.service.config import Config, ListConfig
from nfkeep.service.config_file import InvalidConfigError, load
from nfkeep.service.limits import Rate
from nfkeep.service.protocol import Operation

ROOT = Path(__file__).parents[2]
LIST = "[list x]\nusers = 0\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nfkeepd.conf"


def test_reads_everything(file: Path) -> None:
    """Every key there is."""
    file.write_text(
        """# a comment
[nfkeepd]
socket = /run/other.sock
group = 5
max_connections = 10
max_connections_per_user = 5
idle_timeout = 1.5m
max_line = 2048
rate = 60/m burst 7

[list nginx-1]
backend = nft
ports = http, 443/tcp
    8000-8080/tcp
action = reject
reject_with = tcp-reset
kill = yes
timeout = 10m
max_timeout = 1d
allow = 192.0.2.0/24, 2001:db8::1
users = root 65534
groups = 7,8
operations = ban, bans
rate = 3600/h
max_entries = 5
"""
    )
    assert load(file) == Config(
        lists=(
            ListConfig(
                "nginx-1",
                "nft",
                ports=("http", "443/tcp", "8000-8080/tcp"),
                action="reject",
                reject_with="tcp-reset",
                kill=True,
                timeout=600.0,
                max_timeout=86400.0,
                allow=("192.0.2.0/24", "2001:db8::1"),
                users=frozenset([0, 65534]),
                groups=frozenset([7, 8]),
                operations=frozenset([Operation.BAN, Operation.BANS]),
                rate=Rate(1.0, 3600),
                max_entries=5,
            ),
        ),
        socket="/run/other.sock",
        group=5,
        max_connections=10,
        max_connections_per_user=5,
        idle_timeout=90.0,
        max_line=2048,
        rate=Rate(1.0, 7),
    )


def test_little_is_enough(file: Path) -> None:
    """A list and who may use it; whoever may then ban and ask, and not unban, nor read the list."""
    file.write_text(LIST)
    config = load(file)
    assert config == Config((ListConfig("x", users=frozenset([0])),))
    assert config.lists[0].operations == {Operation.BAN, Operation.BAN_MANY, Operation.CONTAINS}


BAD = {
    "an unknown section": ("[lists]\n", "lists", ""),
    "the section that means all": ("[DEFAULT]\nusers = 0\n" + LIST, "DEFAULT", ""),
    "an unknown key": ("[nfkeepd]\nmax_conections = 5\n" + LIST, "nfkeepd", "max_conections"),
    "an unknown key of a list": (LIST + "max_entry = 5\n", "list x", "max_entry"),
    "a key in capitals": (LIST + "Rate = 5/s\n", "list x", "Rate"),
    "force": (LIST + "force = yes\n", "list x", "force"),
    "no list": ("[nfkeepd]\n", "", ""),
    "nothing": ("", "", ""),
    "a list twice": (LIST + LIST, "", ""),
    "a key twice": (LIST + "rate = 1/s\nrate = 2/s\n", "", ""),
    "no section": ("users = 0\n", "", ""),
    "no ini": ("[list x\n", "", ""),
    "a list without a name": ("[list ]\nusers = 0\n", "list ", ""),
    "a name with a blank": ("[list a b]\nusers = 0\n", "list a b", ""),
    "a name with quotes": ('[list "x"]\nusers = 0\n', 'list "x"', ""),
    "a name that ends a command": ("[list x; flush ruleset]\nusers = 0\n", "list x; flush ruleset", ""),
    "a name with a NUL": ("[list x\0]\nusers = 0\n", "list x\0", ""),
    "a name without end": (f"[list {'x' * 65}]\nusers = 0\n", f"list {'x' * 65}", ""),
    "nobody": ("[list x]\naction = drop\n", "list x", "users"),
    "nobody, said so": ("[list x]\nusers =\n", "list x", "users"),
    "an unknown user": ("[list x]\nusers = no-such-user\n", "list x", "users"),
    "a user below all": ("[list x]\nusers = -1\n", "list x", "users"),
    "the user that is none": ("[list x]\nusers = 4294967295\n", "list x", "users"),
    "an unknown group": ("[list x]\ngroups = no-such-group\n", "list x", "groups"),
    "an unknown backend": (LIST + "backend = pf\n", "list x", "backend"),
    "an unknown action": (LIST + "action = accept\n", "list x", "action"),
    "an unknown port": (LIST + "ports = no-such-service\n", "list x", ""),
    "a port beyond all": (LIST + "ports = 65536/tcp\n", "list x", ""),
    "an unknown rejection": (LIST + "action = reject\nreject_with = x\n", "list x", "reject_with"),
    "a rejection of nothing": (LIST + "reject_with = tcp-reset\n", "list x", "reject_with"),
    "neither yes nor no": (LIST + "kill = true\n", "list x", "kill"),
    "no end of a line": ("[nfkeepd]\nidle_timeout = forever\n" + LIST, "nfkeepd", "idle_timeout"),
    "no duration": (LIST + "timeout = soon\n", "list x", "timeout"),
    "a duration of nothing": (LIST + "timeout = 0\n", "list x", "timeout"),
    "a duration beyond all": (LIST + "timeout = 999999999d\n", "list x", "timeout"),
    "for ever, over the longest": (LIST + "timeout = forever\nmax_timeout = 1h\n", "list x", "timeout"),
    "a timeout over the longest": (LIST + "timeout = 2h\nmax_timeout = 1h\n", "list x", "timeout"),
    "no address": (LIST + "allow = localhost\n", "list x", "allow"),
    "an unknown operation": (LIST + "operations = ban, flush\n", "list x", "operations"),
    "ping as an operation": (LIST + "operations = ping\n", "list x", "operations"),
    "no rate": (LIST + "rate = 100\n", "list x", "rate"),
    "a rate of nothing": (LIST + "rate = 0/s\n", "list x", "rate"),
    "a burst of nothing": (LIST + "rate = 1/s burst 0\n", "list x", "rate"),
    "no number": (LIST + "max_entries = many\n", "list x", "max_entries"),
    "none at all": ("[nfkeepd]\nmax_connections = 0\n" + LIST, "nfkeepd", "max_connections"),
    "a line too short for anything": ("[nfkeepd]\nmax_line = 10\n" + LIST, "nfkeepd", "max_line"),
    "a relative socket": ("[nfkeepd]\nsocket = nfkeepd.sock\n" + LIST, "nfkeepd", "socket"),
    "a socket too long": (f"[nfkeepd]\nsocket = /{'x' * 107}\n" + LIST, "nfkeepd", "socket"),
}


@pytest.mark.parametrize(("text", "section", "key"), BAD.values(), ids=BAD)
def test_refuses(text: str, section: str, key: str, file: Path) -> None:
    """Whatever is not understood is an error that names the file, the section and the key, on one line."""
    file.write_text(text)
    with pytest.raises(InvalidConfigError) as caught:
        load(file)
    error = caught.value
    assert (error.file, error.section, error.key) == (str(file), section, key)
    assert isinstance(error, NfkeepError)
    assert str(error).startswith(f"{file}: ")
    assert "\n" not in str(error)


def test_durations() -> None:
    """As the other commands have them."""
    durations = {"90": 90, "90s": 90, "1h30m": 5400, "0.5s": 0.5, "2w1d": 1_296_000, "forever": math.inf}
    assert {text: words.lasting(text) for text in durations} == durations


def test_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, or not text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary", "."):
        with pytest.raises(InvalidConfigError):
            load(tmp_path / name)


def test_a_list_is_made_with_all_that_its_section_says() -> None:
    """What is configured arrives at BanList; without a timeout the longest one is the list's own."""
    config = ListConfig("x", "nft", ports=("22/tcp",), action="count", kill=True, max_timeout=5.0)
    made = config.make()
    assert (made.name, made.backend, str(made.policy), made.timeout) == ("x", "nft", "count 22/tcp kill", 5.0)
    assert attrs.evolve(config, timeout=3.0).make().timeout == 3.0


def nfkeepd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from nfkeep.service import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check(file: Path) -> None:
    """`nfkeepd --check` exits 0 and says nothing, or 1 with the one line that is wrong."""
    file.write_text(LIST)
    done = nfkeepd("--check", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file.write_text(LIST + "rates = 1/s\n")
    done = nfkeepd("--check", "--config", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"nfkeepd: {file}: [list x] rates: ")
    assert done.stderr.count("\n") == 1


def test_version_and_usage() -> None:
    """`--version` says it on stdout; wrong usage is exit status 2."""
    done = nfkeepd("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nfkeepd {nfkeep.__version__}\n", "")
    assert nfkeepd("--nonsense").returncode == 2


def test_needs_no_extra() -> None:
    """The service runs without click and rich, which only the other commands need."""
    script = "import sys; from nfkeep.service import main; import nfkeep.service.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"click", "rich", "pyroute2"}.isdisjoint(done.stdout.split())
