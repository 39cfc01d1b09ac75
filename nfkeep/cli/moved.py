"""`nfkeep-migrate confirm | rollback | status`: a host that was moved, and the way back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from nfkeep.cli import outcomes
from nfkeep.keep.report import Report
from nfkeep.migrate.live import cutover, persist, plan, record

__all__ = ["confirm", "rollback", "status"]

_EPILOG = "Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage."


@click.command(short_help="Make the move final.", epilog=_EPILOG)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help=f"Write the rules of nft there, for the next boot.  [default: {persist.CONFIGURATION}, in the host's own"
    " network namespace]",
)  # fmt: skip
@click.option("--no-config", is_flag=True, help="Write them nowhere, and leave the services of systemd alone.")
def confirm(config: Path | None, no_config: bool) -> int:
    """Keep the rules of nft, take those of iptables out, and have nft's loaded at the next boot.

    Tells what to change in programs that go on writing with iptables, such as fail2ban and ufw.
    """
    with record.locked():
        own = record.folder().name == record.HOST
        path = config or (persist.CONFIGURATION if own and not no_config else None)
        switching = own and config is None and not no_config
        cutover.check_confirm()
        if path is not None:
            persist.check(path)
        rules, left_out = persist.ruleset() if path is not None else ("", [])
        if path is not None and switching:
            persist.remember(path)
        lost = cutover.confirm()
        done = ["Confirmed: the rules of iptables are taken out."]
        if path is not None:
            done += persist.write(path, rules)
            done += [f"Not in it: the table {each}, which the program that owns it makes." for each in left_out]
        if switching:
            done += persist.switch_services()
        cutover.finish()
        owners = plan.owners({family: record.kept(name) for family, name in record.FILES.items()})
    outcomes.show(Report(tuple(lost)))
    print(*done, sep="\n")
    if owners:
        print("Programs that go on writing with iptables, which nobody looks at any more:")
        outcomes.show_owners(owners)
    return 0


@click.command(short_help="Put the rules of iptables back into force.", epilog=_EPILOG)
def rollback() -> int:
    """Put the rules of iptables back into force with their state, and take those of nft out.

    What nft has counted and collected since comes along, also after `nfkeep-migrate confirm`.
    """
    with record.locked():
        cutover.begin_rollback()
        done = persist.go_back()  # first: at no moment the next boot has no rules
        try:
            report = cutover.rollback()
        except BaseException:
            for line in done:
                print(line)
            raise
        persist.forget()
    outcomes.show(report)
    print("Rolled back: the rules of iptables are in force.", *done, sep="\n")
    return 0


@click.command(short_help="Tell how far the move is, and which rules are in force.", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def status(as_json: bool) -> int:
    """Tell which rules are in force now, how far the move is, and what was done when."""
    found = cutover.standing()
    state = "not begun" if found.record is None else found.record.state
    left = None
    if found.running and found.record is not None and found.record.deadline is not None:
        left = max(0.0, found.record.deadline - time.monotonic())
    steps = () if found.record is None else found.record.steps
    if as_json:
        print(
            json.dumps(
                {"state": state, "iptables": found.old, "nft": found.new, "seconds_left": left, "steps": list(steps)}
            )
        )
        return 0
    force = [name for name, there in (("iptables", found.old), ("nft", found.new)) if there]
    print(f"The move is {state}. In force: {' and '.join(force) or 'no rules'}.")
    if found.parked and not found.new:
        print("Rules of iptables are there, but out of action. Call: nfkeep-migrate rollback")
    if found.new and found.tables:
        print(f"Of iptables these tables are in force: {', '.join(f'{of} {name}' for name, of in found.tables)}")
    if left is not None:
        print(f"It is undone in {left:.0f} seconds unless you call: nfkeep-migrate confirm")
    elif found.limited:
        print("It was to be undone, but nobody waits for that: call nfkeep-migrate confirm, or nfkeep-migrate rollback")
    for seconds, what in steps:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}  {what}")
    return 0
