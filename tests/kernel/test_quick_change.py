"""What a small change does in two calls, and where it goes step by step instead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import nfkeep
from nfkeep import CommitError, Family, InvalidRuleError, LockTimeoutError, Rule
from nfkeep.keep import rundir
from nfkeep.testing import Namespace
from nfkeep.xtables import lock
from nfkeep.xtables.lock import XtablesLock
from nfkeep.xtables.stateful import KEEPING
from nfkeep.xtables.tables import Surroundings, TableHandle

pytestmark = pytest.mark.kernel

RULE = "-s 192.0.2.1/32 -j DROP"


@pytest.fixture
def host() -> Iterator[Namespace]:
    namespace = Namespace()
    with namespace:
        yield namespace
    namespace.close()


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """With a lock and a run directory of this test alone."""
    monkeypatch.setenv(lock.VARIABLE, str(tmp_path / "lock"))
    monkeypatch.setenv(rundir.VARIABLE, str(tmp_path / "run"))
    return Surroundings(lock=(lock.VARIABLE, "/none"), run=(rundir.VARIABLE, "/none"), keeping=KEEPING)


def begin(around: Surroundings, name: str = "filter", family: Family = Family.IPV4) -> TableHandle:
    handle = TableHandle.begin(name, family, around)
    assert handle is not None
    return handle


def is_locked() -> bool:
    try:
        with XtablesLock(0.0):
            return False
    except LockTimeoutError:
        return True


@pytest.mark.parametrize("family", Family)
def test_changed_and_closed_in_one_call(host: Namespace, around: Surroundings, family: Family) -> None:
    """The lock is had from `begin` on, and not any more after `finish`."""
    rule = Rule.parse("-i lo -j DROP", family)
    handle = begin(around, family=family)
    assert (handle.kept_state, is_locked()) == (False, True)
    handle.close()

    def change() -> bool:
        """Done in one call, unless this process was kept waiting for a millisecond."""
        handle = begin(around, family=family)
        handle.append("INPUT", rule)
        done = handle.finish(around)
        handle.close()
        return done

    assert any(change() for _ in range(100))
    assert not is_locked()
    assert list(nfkeep.read("filter", family).chains["INPUT"].rules) == [rule]


def test_closed_without_a_change(host: Namespace, around: Surroundings) -> None:
    handle = begin(around)
    handle.append("INPUT", Rule.parse(RULE))
    handle.close()
    assert (is_locked(), nfkeep.read("filter").chains["INPUT"].rules) == (False, ())


def test_somebody_has_the_lock(host: Namespace, around: Surroundings) -> None:
    with XtablesLock():
        assert TableHandle.begin("filter", Family.IPV4, around) is None
    with XtablesLock(), pytest.raises(LockTimeoutError), nfkeep.transaction(lock_timeout=0.0):
        pass


def test_somebody_has_left_something(host: Namespace, around: Surroundings, tmp_path: Path) -> None:
    """A run directory has to be looked into."""
    (tmp_path / "run").mkdir(mode=0o700)
    assert TableHandle.begin("filter", Family.IPV4, around) is None
    assert not is_locked()
    with nfkeep.transaction() as tx:
        tx.append("INPUT", RULE)
    assert len(nfkeep.read("filter").chains["INPUT"].rules) == 1


def test_no_such_table(host: Namespace, around: Surroundings) -> None:
    assert TableHandle.begin("missing", Family.IPV4, around) is None
    assert not is_locked()


@pytest.mark.parametrize(
    "state",
    [
        "connlimit --connlimit-above 3",
        "limit --limit 5/m",
        "quota --quota 9",
        "statistic --mode nth --every 2 --packet 0",
        "recent --set",
        "hashlimit --hashlimit-above 1/s --hashlimit-name h",
    ],
)
def test_what_keeps_state_goes_step_by_step(host: Namespace, around: Surroundings, state: str) -> None:
    """Whether it was there, or is new."""
    rule = f"-p tcp -m {state} -j DROP"
    handle = begin(around)
    handle.append("INPUT", Rule.parse(rule))
    assert not handle.finish(around)
    assert (is_locked(), nfkeep.read("filter").chains["INPUT"].rules) == (True, ())
    handle.close()
    host.run(["iptables-legacy", "-w", "-A", "INPUT", *rule.split()])
    handle = begin(around)
    assert handle.kept_state
    assert not handle.finish(around)
    handle.close()


def test_long_after_the_reading_the_table_is_looked_at_again(host: Namespace, around: Surroundings) -> None:
    """Somebody who ignores the lock may have changed it."""
    handle = begin(around)
    handle.append("INPUT", Rule.parse(RULE))
    until = time.monotonic() + 0.1
    while time.monotonic() < until:  # time is what is meant
        pass
    assert not handle.finish(around)
    handle.commit()
    handle.close()
    assert (is_locked(), len(nfkeep.read("filter").chains["INPUT"].rules)) == (False, 1)


def test_refused_by_the_kernel(host: Namespace, around: Surroundings) -> None:
    """The error is that of a commit, nothing is changed, and the lock is given back."""
    with pytest.raises(CommitError) as caught, nfkeep.transaction() as tx:
        tx.append("INPUT", "-p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")  # not in INPUT
    assert (caught.value.applied, is_locked(), nfkeep.read("filter").chains["INPUT"].rules) == (False, False, ())


def test_errors_of_a_transaction_give_the_lock_back(host: Namespace, around: Surroundings) -> None:
    with pytest.raises(InvalidRuleError), nfkeep.transaction() as tx:
        tx.append("MISSING", RULE)
    assert not is_locked()
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pytest.raises(InvalidRuleError), nfkeep.transaction() as tx:
            tx.delete_chain("INPUT")
    assert (is_locked(), len(os.listdir("/proc/self/fd"))) == (False, files)
