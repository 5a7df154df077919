"""A fast selection of the fault suite; `make faults` runs all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from faults import table
from faults.case import Case
from faults.kills import kill_database, kill_some_worker
from faults.launch import Launch
from faults.suite import Suite
from faults.table import Fault

SQLITE, POSTGRESQL = ("sqlite",), ("postgresql",)


def driver_worker_and_tell(case: Case) -> None:
    """A worker, then the driver at a random instant, before a tell and inside a commit."""
    launch = case.training()
    kill_some_worker(case, launch)
    launch.read(r"(?s)trial \d+: epoch.*trial \d+: epoch")
    time.sleep(case.random.uniform(0, 1))
    case.kill_driver(launch, "random")
    for phase in ("before-tell", "inside-commit"):
        launch, _ = case.stopped_at(phase)
        case.kill_driver(launch, phase)
    case.finish()


def postgresql_while_it_trains(case: Case) -> None:
    """PostgreSQL in training, and the driver inside a commit."""
    launch = case.training()
    kill_database(case, "random")
    case.failpoints.arm("inside-commit")
    launch.reach(case.failpoints, "inside-commit")
    case.kill_driver(launch, "inside-commit")
    case.finish()


FAST = [
    Fault("fast", driver_worker_and_tell, stores=SQLITE, hits={"before-tell": 1}),
    Fault("fast", postgresql_while_it_trains, stores=POSTGRESQL, hits={"inside-commit": 1}),
]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with Suite(seed=0, keep=False, say=lambda line: None) as suite:
        yield suite


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAST, ids=lambda fault: fault.name)
def test_what_was_killed_goes_on(suite: Suite, fault: Fault) -> None:
    [outcome] = suite.run([fault])
    assert outcome.good, outcome.breaches


def test_a_launch_that_has_ended_is_sent_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append(number))
    launch = Launch.__new__(Launch)
    launch.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    launch.pid = launch.process.pid
    launch.signal(signal.SIGTERM)
    launch.process.kill()
    launch.process.wait()
    launch.signal(signal.SIGHUP)
    assert sent == [signal.SIGTERM]


ROWS = 24
"""Of the table of faults that the project was given."""


def test_every_row_of_the_table_has_scenarios() -> None:
    found = table.faults()
    assert len({fault.row for fault in found}) == ROWS
    assert all(fault.run.__doc__ for fault in found)
    assert len({fault.name for fault in found}) == len(found)


def test_enough_is_killed_in_every_phase() -> None:
    """Thirty of each kind, half of them at random; every failpoint three times on each store."""
    for victim in ("driver", "worker", "database"):
        names = [f"{victim}_at_random", f"{victim}_at_failpoints", f"{victim}_kills"]
        chosen = [fault for fault in table.faults() if fault.name in names]
        planned: dict[str, int] = {}
        for fault in chosen:
            for phase, least in fault.hits.items():
                planned[phase] = planned.get(phase, 0) + least * fault.tries
        assert sum(planned.values()) * 2 >= 30, (victim, planned)
        assert planned.pop("random") * 2 >= 15, (victim, planned)
        assert min(planned.values()) >= 3, (victim, planned)
