"""`nfkeep fail2ban`: have fail2ban ban through nfkeep, take over the bans that there are, and see whether all is well.

What the action nfkeep.conf calls is in `nfkeep.cli.fail2ban_action`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import attrs
import click

from nfkeep.cli.fail2ban_action import flush, restore
from nfkeep.cli.table import show
from nfkeep.errors import NfkeepError
from nfkeep.integrations.fail2ban import adopt as adoption
from nfkeep.integrations.fail2ban import configuration
from nfkeep.integrations.fail2ban.adopt import Adopted
from nfkeep.integrations.fail2ban.install import Plan, plan

__all__ = ["fail2ban"]

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_configured = click.option(
    "--config", type=click.Path(exists=True, file_okay=False, path_type=Path), help="fail2ban's, if not /etc/fail2ban."
)


@click.group(short_help="Have fail2ban ban through nfkeep.")
def fail2ban() -> None:
    """Have fail2ban ban through nfkeep: a ban changes no rule, and outlives a restart."""


@fail2ban.command(short_help="Put the actions in place.")
@click.option("--root", type=_DIRECTORY, default="/", show_default=True, help="Below which etc/fail2ban is.")
@click.option("--python", metavar="PATH", help="The Python that runs fail2ban, if not that of fail2ban-server.")
@click.option("--command", metavar="PATH", help="The command nfkeep, as fail2ban is to call it.")
@_as_json
def install(root: Path, python: str | None, command: str | None, as_json: bool) -> None:
    """Put nfkeep-action.py and nfkeep.conf into action.d of fail2ban, and say what jail.local needs.

    The first is only put there if the Python that runs fail2ban can import nfkeep from where it is installed; if it
    cannot, the reason is told, and the second does the same with the command nfkeep. Nothing else is changed.
    """
    wanted = plan(root, python, command)
    written = {str(path) for path in wanted.carry_out()}
    if as_json:
        print(json.dumps(_planned(wanted, written), indent=2))
        return
    for file in wanted.files:
        print(f"{file.path}: {'written' if str(file.path) in written else 'is there already'}")
    if not wanted.trial.works:
        _warn(f"no nfkeep-action.py, as {wanted.trial.python} cannot import nfkeep: {wanted.trial.reason}")
    if wanted.outdated is not None:
        _warn(f"{wanted.outdated}, of an earlier installation, does not work any more: no jail may use it")
    for path in wanted.exposed:
        _warn(f"others than root may write to {path}, and fail2ban runs what is in it as root")
    print("\nSet in jail.local, and restart fail2ban:\n")
    for line in wanted.jail_local:
        print(f"    {line}")


@fail2ban.command(short_help="Put the bans of all jails in force, before the switch.")
@_configured
@click.option("--remove-old", is_flag=True, help="Then take down rules and lists of iptables-xt_recent-echo.")
@_as_json
def adopt(config: Path | None, remove_old: bool, as_json: bool) -> None:
    """Put in force, through nfkeep, whom the jails ban now: those in fail2ban's database and in lists of xt_recent.

    For the jails whose action is nfkeep's by the configuration as it is now, running or not. What enforced the bans
    until now is left alone, so that there is no moment without a ban; --remove-old then takes the rules of
    iptables-xt_recent-echo out of INPUT, with the state of all other rules kept.
    """
    logging.basicConfig(format="nfkeep: %(message)s")
    asked = configuration.read(config)
    if not asked.jails:
        raise NfkeepError("no jail has an action of nfkeep; set banaction in jail.local first")
    if asked.clashing:
        raise NfkeepError(_clash(asked.clashing[0]))
    adopted = list(adoption.adopt(asked))
    removed = []
    if remove_old:
        for each in adopted:
            for old in each.old_lists:
                for report in old.remove():
                    for outcome in report.outcomes:
                        click.echo(f"nfkeep: {outcome}", err=True)
                removed.append(old.name)
    if as_json:
        print(json.dumps({"jails": [_object(each) for each in adopted], "removed": removed}, indent=2))
        return
    show(("jail", "list", "bans", "from the database", "from xt_recent"), [_row(each) for each in adopted])
    for name in removed:
        print(f"removed the xt_recent list {name} with its rules")


@fail2ban.command(short_help="Show whether the actions work, and for which jails.")
@click.option("--root", type=_DIRECTORY, default="/", show_default=True, help="Below which etc/fail2ban is.")
@click.option("--python", metavar="PATH", help="The Python that runs fail2ban, if not that of fail2ban-server.")
@click.option("--command", metavar="PATH", help="The command nfkeep, as fail2ban is to call it.")
@_configured
@_as_json
def status(root: Path, python: str | None, command: str | None, config: Path | None, as_json: bool) -> int:
    """Show whether the actions are in place and work, and which jails use them. Exit status 1 if they do not."""
    wanted = plan(root, python, command)
    asked = configuration.read(config or (root / "etc/fail2ban" if root != Path("/") else None))
    old = [file.path for file in wanted.files if not file.is_there]
    faults = [f"{path} is not there, or an older one; run `nfkeep fail2ban install`" for path in old]
    if not wanted.trial.works:
        faults.append(f"{wanted.trial.python} cannot import nfkeep: {wanted.trial.reason}")
    faults += map(_clash, asked.clashing)
    if as_json:
        jails = [{"jail": jail, **attrs.asdict(options)} for jail, options in asked.jails]
        print(json.dumps({"faults": faults, "jails": jails}, indent=2))
        return 1 if faults else 0
    for fault in faults:
        _warn(fault)
    if not asked.jails:
        print("No jail has an action of nfkeep.")
    else:
        rows = [(jail, each.list_name, each.action, " ".join(each.ports) or "everything") for jail, each in asked.jails]
        show(("jail", "list", "action", "ports"), rows)
    return 1 if faults else 0


fail2ban.add_command(restore)
fail2ban.add_command(flush)


def _planned(wanted: Plan, written: set[str]) -> dict[str, object]:
    return {
        "files": [{"path": str(file.path), "written": str(file.path) in written} for file in wanted.files],
        "python": attrs.asdict(wanted.trial),
        "outdated": None if wanted.outdated is None else str(wanted.outdated),
        "exposed": wanted.exposed,
        "jail_local": wanted.jail_local,
    }


def _object(adopted: Adopted) -> dict[str, object]:
    return {
        "jail": adopted.jail,
        "list": adopted.list_name,
        "backend": adopted.backend,
        "bans": adopted.bans,
        "from_database": adopted.from_database,
        "from_xt_recent": adopted.from_old_lists,
    }


def _row(adopted: Adopted) -> tuple[str, ...]:
    old = ", ".join(f"{count} ({name})" for name, count in adopted.from_old_lists.items())
    return adopted.jail, adopted.list_name, str(adopted.bans), str(adopted.from_database), old or "-"


def _clash(jail: str) -> str:
    return (
        f"the jail {jail} has two actions of one name, and with these fail2ban would not start any jail: give one of "
        'them another actname=, or have one for both protocols (protocol="tcp,udp")'
    )


def _warn(message: str) -> None:
    click.echo(f"nfkeep: {message}", err=True)
