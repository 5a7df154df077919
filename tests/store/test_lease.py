"""One driver at a time: real processes that hold, sleep and die, on both stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState
from support.store_examples import CONFIG, metrics

from hpsearch.store import Store, lease
from hpsearch.store.lease import (
    Holder,
    Lease,
    LeaseHeld,
    LeaseLost,
    _Refusal,
    _Watch,
    lease_seconds,
)
from hpsearch.system.errors import InputError

DRIVER = """
import sys, time
from hpsearch.store import Store, lease
from hpsearch.store.lease import LeaseHeld, LeaseLost
from support.store_examples import CONFIG, metrics

store = Store.create(sys.argv[1])
experiment = store.begin_experiment("study", "one", {})
try:
    store.drive(experiment, wait="wait" in sys.argv, say=lambda line: print(line, flush=True))
except LeaseHeld as error:
    print(f"held: {error}", flush=True)
    sys.exit(1)
run = store.record_run(experiment.id, "0", CONFIG, "folder")
if "quiet" in sys.argv:  # may be stopped at any instant without a lock in its hands
    store._lease._stop.set()
    store._lease._renewal.join()
print("drives", flush=True)
sys.stdin.readline()
try:
    store.record_epoch(run.id, metrics(7, 1.0))
except LeaseLost as error:
    print(f"lost: {error}", flush=True)
    sys.exit(1)
print("wrote", flush=True)
store.close()
"""


class Driver:
    """Another process that drives the study 'one' until it is told to go on."""

    def __init__(self, url: str, *options: str, seconds: float | None = None) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = os.environ | {"PYTHONPATH": path}
        if seconds is not None:
            environment["HPSEARCH_LEASE_SECONDS"] = str(seconds)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, url, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def driver(url: str) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*options: str, seconds: float | None = None) -> Driver:
        drivers.append(Driver(url, *options, seconds=seconds))
        return drivers[-1]

    yield start
    for each in drivers:
        each.end()


def drive(store: Store, **options: Any) -> list[str]:
    """Take the lease; what was said meanwhile."""
    said: list[str] = []
    experiment = store.begin_experiment("study", "one", {})
    store.drive(experiment, say=said.append, **options)
    return said


def holder(store: Store) -> Any:
    experiment = store.experiment("study", "one")
    assert experiment is not None
    return store.holder(experiment.id)


def set_lease(store: Store, **values: Any) -> None:
    """Change the row as another machine's driver would."""
    with store._database.engine.begin() as connection:
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(sa.text(f"UPDATE hpsearch_leases SET {assignments}"), values)


def test_a_second_driver_is_told_who_drives(
    store: Store, driver: Callable[..., Driver], created: Any, url: str
) -> None:
    first = driver()
    assert first.says() == "drives"
    with pytest.raises(
        LeaseHeld, match=rf"the study 'one' is driven by process {first.process.pid} on .* since"
    ):
        drive(store)
    found = holder(store)
    assert found.drives and found.here and found.process == first.process.pid
    second = driver()
    assert second.says().startswith("held: the study 'one' is driven by")
    assert second.process.wait() == 1
    first.goes_on()
    assert first.says() == "wrote"


def test_the_lease_is_given_back(store: Store, url: str, created: Callable[..., Store]) -> None:
    other = created(url)
    assert drive(other) == []
    assert holder(store).process == os.getpid()
    other.close()
    assert holder(store) is None


def test_a_dead_driver_is_replaced_at_once(store: Store, driver: Callable[..., Driver]) -> None:
    first = driver()
    assert first.says() == "drives"
    first.process.kill()  # and not waited for: a corpse
    started = time.monotonic()
    while holder(store).here:
        assert time.monotonic() - started < 10
    assert drive(store) == []
    assert time.monotonic() - started < 10


def test_waiting_ends_with_the_driver(store: Store, driver: Callable[..., Driver]) -> None:
    first = driver()
    assert first.says() == "drives"
    second = driver("wait")
    assert "waiting for its end, or " in second.says()
    first.goes_on()
    assert first.says() == "wrote"
    assert second.says() == "drives"


def test_a_driver_that_slept_writes_nothing(store: Store, driver: Callable[..., Driver]) -> None:
    first = driver("quiet", seconds=1)
    assert first.says() == "drives"
    first.process.send_signal(signal.SIGSTOP)
    time.sleep(1.1)
    assert holder(store).lapsed
    drive(store)
    first.process.send_signal(signal.SIGCONT)
    first.goes_on()
    assert "lost: the study 'one' is now driven by process" in first.says()
    assert first.process.wait() == 1
    assert store.epochs().empty
    assert holder(store).process == os.getpid()  # the loser gave nothing back


@pytest.mark.parametrize("alive", [True, False])
def test_a_driver_of_another_machine_proves_alive_or_lapses(
    store: Store,
    url: str,
    created: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    alive: bool,
) -> None:
    monkeypatch.setenv("HPSEARCH_LEASE_SECONDS", "2")
    other = created(url)
    drive(other)
    if not alive:  # no renewal reaches the store, and nothing is given back
        other._lease._stop.set()
    set_lease(store, host="elsewhere", process=1, incarnation="another table 1")
    assert holder(store).drives
    if alive:
        with pytest.raises(LeaseHeld, match="process 1 on elsewhere"):
            drive(store)
    else:
        [line] = drive(store)
        assert "is driven by process 1 on elsewhere" in line
        assert "to see whether it responds" in line
        with pytest.raises(LeaseLost):
            other.update_provenance(1, x=1)


def test_a_database_that_was_away_costs_nobody_the_lease(
    store: Store, url: str, created: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is older than its length, and its holder renews it after all."""
    monkeypatch.setenv("HPSEARCH_LEASE_SECONDS", "12")
    other = created(url)
    drive(other)
    set_lease(store, process=1, incarnation="", renewed_at=0.0)
    with pytest.raises(LeaseHeld):
        drive(store)


def test_a_clock_that_was_set_back_does_not_prolong_a_lease(
    store: Store, url: str, created: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_LEASE_SECONDS", "2")
    other = created(url)
    drive(other)
    other._lease._stop.set()
    values = {"host": "elsewhere", "process": 1, "incarnation": "another table 1"}
    set_lease(store, **values, renewed_at=time.time() + 7200)
    assert holder(store).lapsed
    drive(store)
    assert holder(store).process == os.getpid()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_takes_no_lease_from_a_driver_that_is_alive(
    store: Store, driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    first = driver(seconds=3)
    assert first.says() == "drives"
    read = lease._database_time
    monkeypatch.setattr(lease, "_database_time", lambda connection: read(connection) + jump)
    assert holder(store).lapsed
    with pytest.raises(LeaseHeld, match=f"is driven by process {first.process.pid}"):
        drive(store)
    first.goes_on()
    assert first.says() == "wrote"


def test_a_machine_of_the_same_name_is_not_this_process(
    store: Store, url: str, created: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers may have one host name and one process number; here neither has /proc."""
    monkeypatch.setenv("HPSEARCH_LEASE_SECONDS", "2")
    monkeypatch.setattr(lease.incarnation, "mine", lambda: "")
    drive(created(url))
    assert holder(store).process == os.getpid()
    with pytest.raises(LeaseHeld):
        drive(store)


def test_every_write_verifies_the_lease(store: Store) -> None:
    drive(store)
    experiment = store.begin_experiment("study", "one", {})
    run = store.record_run(experiment.id, "0", CONFIG, "folder")
    optuna = store.optuna_storage
    study = optuna.create_new_study([StudyDirection.MINIMIZE], "one")
    trial = optuna.create_new_trial(study)
    set_lease(store, token="another")
    writes: list[Callable[[], object]] = [
        lambda: store.record_epoch(run.id, metrics(1, 2.0)),
        lambda: store.fill_provenance(experiment.id, data_hash="x"),
        lambda: store.begin_experiment("study", "two", {}),
        lambda: optuna.create_new_trial(study),
        lambda: optuna.set_trial_state_values(trial, TrialState.COMPLETE, [1.0]),
        lambda: optuna.set_trial_user_attr(trial, "a", 1),
        lambda: optuna.set_trial_intermediate_value(trial, 1, 1.0),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match="driven by"):
            write()
    assert store.epochs().empty
    assert len(store.experiments()) == 1
    [row] = store.trial_states("one") or []
    assert row.state == "RUNNING"


def test_of_many_contenders_one_drives(driver: Callable[..., Driver], store: Store) -> None:
    contenders = [driver() for _ in range(5)]
    answers = [each.says() for each in contenders]
    assert answers.count("drives") == 1
    assert sum(answer.startswith("held") for answer in answers) == 4


def test_taking_waits_for_a_write_in_progress(
    store: Store, url: str, created: Callable[..., Store]
) -> None:
    """What was verified stays true until the commit."""
    drive(store)
    other = created(url)
    taken: list[float] = []

    def take() -> None:
        drive(other)  # of the same process, so at once
        taken.append(time.monotonic())

    with store._writer.begin():
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.5)
        assert not taken
        committed = time.monotonic()
    thread.join()
    assert taken[0] >= committed
    with pytest.raises(LeaseLost):
        store.update_provenance(1, x=1)


@pytest.mark.parametrize("text", ["0.5", "soon", "inf", "nan", "-3"])
def test_a_wrong_length_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSEARCH_LEASE_SECONDS", text)
    with pytest.raises(InputError, match="HPSEARCH_LEASE_SECONDS must be a number of seconds"):
        lease_seconds()


def test_without_a_lease_nothing_is_fenced(store: Store) -> None:
    assert isinstance(store._lease, Lease)
    assert store.begin_experiment("study", "one", {}).id == 1
    assert holder(store) is None


def test_a_contender_waits_anew_where_the_database_was_away_for_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    holder = Holder("h", 1, datetime.now(UTC), 70.0, lapsed=True, gone=False, here=False)
    refusal = _Refusal(holder, ("token", 5.0), 60.0)
    watch = _Watch(pause=1.0)
    for clock[0] in (1.0, 2.0, 3.0):
        watch.look(refusal)
    assert watch.stale_renewal(60.0) is None
    clock[0] = 100.0  # the database was away: nobody could have renewed
    watch.look(refusal)
    assert watch.stale_renewal(60.0) is None
    for second in range(101, 117):
        clock[0] = float(second)
        watch.look(refusal)
    assert watch.stale_renewal(60.0) == ("token", 5.0)
