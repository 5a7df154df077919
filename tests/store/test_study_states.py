"""Any order of ask, report, tell, crash, reclaim, second driver and meddling keeps the invariant.

A machine of random steps drives real launches on a real SQLite store; after every step the rows
must stand up to `verify`, but for what the outside hand did. ``HPSEARCH_STATES_EXAMPLES=2000`` runs
so many random sequences instead of the few that are always the same.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.trial import FixedTrial, TrialState
from support.store_examples import FACTS, metrics

from hpsearch.config.run import TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.runs.messages import Assignment, Completion, Failure, FailureKind
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.search.verify import Breach, verify
from hpsearch.search.work import Search
from hpsearch.store import Store
from hpsearch.store.lease import LeaseLost
from hpsearch.store.tables import leases
from hpsearch.system import installation

EXAMPLES = os.environ.get("HPSEARCH_STATES_EXAMPLES")
SPACE = SearchSpace.parse(
    """
version: 1
name: states
trials: 2
sampler: random
seed: 0
targets: [mu, U0]
network:
  embedding_size: 4
  featurization_components: 6
  featurization_scalar_fraction: 0.5
  featurization_blocks: 1
  residual: true
  radial_basis: cosine
  radial_functions: 3
  radial_maximum_angstrom: 3.0
  radial_mlp_layers: 1
  radial_mlp_neurons: 4
  output_blocks: 1
  output_scalars: 0
  output_vectors: 0
  output_mlp_layers: 1
  output_mlp_neurons: 4
  softplus_beta: 5.0
training:
  epochs: 3
  schedule: plateau
  plateau_factor: 0.5
  plateau_patience: 5
  minimum_learning_rate: 1.0e-5
  early_stopping_patience: 2
data: {train_size: 10, validation_size: 4, test_size: 4}
parameters:
  batch_size: {type: int, low: 2, high: 9}
  learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, scale: log}
""",
    "states.yaml",
)
WITH_RUNGS = SearchSpace.parse(
    SPACE.text.replace(
        "parameters:\n", "rungs: {epochs: [1, 2], reduction: 2, tolerance: 0.0}\nparameters:\n"
    ),
    "states.yaml",
)
MOST_WANTED = 5
MOST_RUNNING = 3
FEW = st.integers(0, 3)


class Crash(BaseException):
    """The process dies here; whatever was not committed is lost."""


def loss(config: TrialConfig, epoch: int) -> float:
    """A training that gives the same numbers whenever it is repeated, as the real one does.

    Some runs improve to the end, others are best early, so that early stopping ends them.
    """
    best = 1 + config.training.seed % 3
    return 1.0 + config.training.learning_rate + abs(epoch - best)


def last_epoch(config: TrialConfig) -> int:
    training = config.training
    best = 1 + training.seed % 3
    return min(training.epochs, best + training.early_stopping_patience)


@dataclass
class Worker:
    """One run under way; what it has trained lies in the checkpoints, which outlive it."""

    assignment: Assignment
    checkpoints: dict[str, int]
    started: bool = False

    @property
    def epochs_done(self) -> int:
        return self.checkpoints.get(self.assignment.directory, 0)

    @property
    def at_end(self) -> bool:
        until = self.assignment.until
        return self._is_complete or (until is not None and self.epochs_done >= until)

    @property
    def _is_complete(self) -> bool:
        return self.epochs_done >= last_epoch(self.assignment.config)

    def start(self, search: Search) -> None:
        self.started = True
        search.started(self.assignment.key, FACTS)
        for epoch in range(1, self.epochs_done + 1):  # those of an earlier launch
            self._report(search, epoch)

    def train(self, search: Search) -> None:
        """An epoch: the checkpoint first, then the report."""
        epoch = self.epochs_done + 1
        self.checkpoints[self.assignment.directory] = epoch
        self._report(search, epoch)

    def complete(self, search: Search) -> None:
        """End the run, or the part of it that ends at a rung."""
        if self._is_complete:
            search.finish(self.assignment.key, Completion(self.epochs_done, 1, 0.0))
        else:
            search.paused(self.assignment.key, self.epochs_done)

    def _report(self, search: Search, epoch: int) -> None:
        search.epoch(self.assignment.key, metrics(epoch, loss(self.assignment.config, epoch)))


@dataclass
class Driver:
    """A launch in a process of its own: its store, its search, its workers."""

    store: Store
    search: Search
    workers: list[Worker] = field(default_factory=list)


class States(RuleBasedStateMachine):
    """The study, its drivers dead and alive, and the outside hand."""

    template: Path
    root: Path
    space: SearchSpace
    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.folder = self.root / str(self.made)
        self.folder.mkdir()
        shutil.copy(self.template, self.folder / "store.db")
        self.url = f"sqlite:///{self.folder}/store.db"
        self.reader = Store.open(self.url)
        self.outside = optuna.storages.RDBStorage(self.url)  # plain Optuna, as a dashboard
        self.wanted = self.space.trials
        self.driver: Driver | None = None
        self.silent: list[Driver] = []  # taken for dead; their late calls may still come
        self.checkpoints: dict[str, int] = {}
        self.countdown = 0  # transactions until the process dies; 0 is never
        self.deleted = False
        self.told: set[int] = set()  # numbers that the outside hand has told
        self.verdicts: dict[int, tuple[int, str, float | None]] = {}

        sa.event.listen(sa.Engine, "commit", self._tick)

    # --- The process that may die -----------------------------------------------------------------

    def _tick(self, *_: object) -> None:
        # Not of the threads that renew leases.
        if self.countdown and threading.current_thread() is threading.main_thread():
            self.countdown -= 1
            if self.countdown == 0:
                raise Crash

    @contextmanager
    def _mortal(self) -> Iterator[None]:
        """What is done here may be cut short by the crash that a step has armed."""
        try:
            yield
        except Crash:
            self._die()

    def _die(self) -> None:
        if self.driver is not None:
            with self._undisturbed():  # a process dies only once
                self.driver.store.close()  # as the kernel does
            self.driver = None

    def _launch(self) -> None:
        with self._undisturbed():
            store = Store.open(self.url)  # the schema is there
        try:
            space = self.space.with_overrides(trials=self.wanted)
            self.driver = Driver(store, launch_study(store, space, "states", self.folder / "runs"))
        except Crash:
            store.close()

    def _holds_lease(self, driver: Driver) -> bool:
        with self.reader._database.engine.connect() as connection:
            tokens = connection.execute(sa.select(leases.c.token)).scalars().all()
        return tokens == [driver.store._lease._token]

    def _worker(self, which: int, wish: Callable[[Worker], bool]) -> Worker | None:
        assert self.driver is not None
        workers = [worker for worker in self.driver.workers if wish(worker)]
        return workers[which % len(workers)] if workers else None

    def _ended(self, worker: Worker) -> None:
        if self.driver is not None:
            self.driver.workers.remove(worker)

    # --- Steps ------------------------------------------------------------------------------------

    @precondition(lambda self: self.driver is None)
    @rule(more=st.integers(-1, 2))
    def launch(self, more: int) -> None:
        self.wanted = min(max(self.wanted + more, 1), MOST_WANTED)
        self._launch()

    @precondition(lambda self: self.driver is not None)
    @rule()
    def ask(self) -> None:
        assert self.driver is not None
        if len(self.driver.workers) < MOST_RUNNING:
            with self._mortal():
                assignment = self.driver.search.next()
                if assignment is not None:
                    keys = [worker.assignment.key for worker in self.driver.workers]
                    assert assignment.key not in keys
                    self.driver.workers.append(Worker(assignment, self.checkpoints))

    @precondition(lambda self: self.driver is not None)
    @rule(which=FEW)
    def start(self, which: int) -> None:
        if worker := self._worker(which, lambda worker: not worker.started):
            with self._mortal():
                worker.start(self.driver.search)  # type: ignore[union-attr]

    @precondition(lambda self: self.driver is not None)
    @rule(which=FEW)
    def epoch(self, which: int) -> None:
        if worker := self._worker(which, lambda worker: worker.started and not worker.at_end):
            with self._mortal():
                worker.train(self.driver.search)  # type: ignore[union-attr]

    @precondition(lambda self: self.driver is not None)
    @rule(which=FEW)
    def complete(self, which: int) -> None:
        if worker := self._worker(which, lambda worker: worker.started):
            with self._mortal():
                while not worker.at_end:
                    worker.train(self.driver.search)  # type: ignore[union-attr]
                worker.complete(self.driver.search)  # type: ignore[union-attr]
                self._ended(worker)

    @precondition(lambda self: self.driver is not None)
    @rule(which=FEW, kind=st.sampled_from(["diverged", "worker_lost", "exception"]))
    def fail(self, which: int, kind: FailureKind) -> None:
        if worker := self._worker(which, lambda worker: True):
            with self._mortal():
                failure = Failure(kind, f"{kind} of some reason", epoch=worker.epochs_done)
                self.driver.search.finish(worker.assignment.key, failure)  # type: ignore[union-attr]
                self._ended(worker)

    @precondition(lambda self: self.driver is not None)
    @rule()
    def crash(self) -> None:
        self._die()

    @rule(transactions=st.integers(1, 12))
    def crash_soon(self, transactions: int) -> None:
        self.countdown = transactions

    @precondition(lambda self: self.driver is not None)
    @rule()
    def second_driver(self) -> None:
        """The first one is silent for so long that its lease has lapsed."""
        assert self.driver is not None
        self.silent.append(self.driver)
        self.driver = None
        self._launch()

    @precondition(lambda self: self.silent)
    @rule(which=FEW, kind=st.sampled_from(["start", "epoch", "complete", "fail"]))
    def late_call(self, which: int, kind: str) -> None:
        """A driver that was taken for dead wakes and tells what its worker did meanwhile."""
        driver = self.silent[which % len(self.silent)]
        if not driver.workers:
            return
        worker = driver.workers[which % len(driver.workers)]
        before, self.countdown = self.countdown, 0
        # A launch that died before it took the lease has replaced nobody.
        replaced = not self._holds_lease(driver)
        with pytest.raises(LeaseLost) if replaced else nullcontext():
            if kind == "fail":
                failure = Failure("worker_lost", "late")
                driver.search.finish(worker.assignment.key, failure)
            elif kind == "start" or not worker.started:
                worker.start(driver.search)
            elif kind == "epoch" and not worker.at_end:
                worker.train(driver.search)
            elif kind == "complete" and worker.at_end:
                worker.complete(driver.search)
            elif replaced:
                driver.store.update_provenance(1, late=True)
        self.countdown = before

    @precondition(lambda self: self.driver is not None)
    @rule()
    def exit(self) -> None:
        """The launch ends as soon as nothing is left to do: then every row has ended."""
        assert self.driver is not None
        with self._mortal():
            if self.driver.workers or not self.driver.search.finished:
                return
            gave_up = self.driver.search.breakdown is not None
            self._die()
            self._check(lambda breach: gave_up and breach.rule == "count", ended=True)

    # --- The outside hand -------------------------------------------------------------------------

    @rule(which=FEW)
    def delete(self, which: int) -> None:
        rows = self._rows()
        if rows:
            self.deleted = True
            trial_id = rows[which % len(rows)][1]
            with self._undisturbed(), self.outside.engine.begin() as connection:
                attributes = ("user_attributes", "system_attributes")
                for name in ("params", "values", "intermediate_values", *attributes):
                    table = f"trial_{name}"
                    connection.exec_driver_sql(f"DELETE FROM {table} WHERE trial_id = {trial_id}")
                connection.exec_driver_sql(f"DELETE FROM trials WHERE trial_id = {trial_id}")
            self.verdicts.pop(trial_id, None)

    @rule(which=FEW, state=st.sampled_from(["COMPLETE", "PRUNED", "FAIL"]))
    def tell_by_hand(self, which: int, state: str) -> None:
        rows = [row for row in self._rows() if row[2] == "RUNNING"]
        if rows:
            number, trial_id, _ = rows[which % len(rows)]
            self.told.add(number)
            values = [0.5] if state == "COMPLETE" else None
            with self._undisturbed():
                self.outside.set_trial_state_values(trial_id, TrialState[state], values)

    @precondition(lambda self: self._rows())
    @rule(size=st.integers(2, 9))
    def put_in_line(self, size: int) -> None:
        with self._undisturbed():
            study = optuna.load_study(study_name="states", storage=self.outside)
            study.enqueue_trial({"batch_size": size})

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        before, self.countdown = self.countdown, 0
        yield
        self.countdown = before

    # --- What must hold ---------------------------------------------------------------------------

    def _rows(self) -> list[tuple[int, int, str]]:
        rows = self.reader.trial_states("states") or []
        return [(row.number, row.trial_id, row.state) for row in rows]

    def _excused(self, breach: Breach) -> bool:
        """Whether the outside hand made it."""
        if breach.rule in ("numbers", "twice"):
            return self.deleted
        if breach.rule == "best":
            return bool(self.told)
        if breach.rule == "terminal":
            return "WAITING" in {row[2] for row in self._rows() if row[0] == breach.trial}
        return breach.trial in self.told

    def _check(self, also: Callable[[Breach], bool], *, ended: bool) -> None:
        with self._undisturbed():
            if ended and self.driver is not None:
                self.driver.store.leave()
            found = verify(self.reader, "states").breaches
        if not ended:  # what the next launch mends
            found = tuple(b for b in found if "launch it again" not in b.text)
        wrong = [str(b) for b in found if not self._excused(b) and not also(b)]
        assert not wrong, wrong

    @precondition(lambda self: self._rows())
    @invariant()
    def the_rows_keep_the_invariant(self) -> None:
        self._check(lambda breach: False, ended=False)

    @invariant()
    def no_verdict_is_lost_or_changed(self) -> None:
        query = (
            "SELECT trials.trial_id, number, state, value FROM trials LEFT JOIN trial_values "
            "USING (trial_id) WHERE state NOT IN ('RUNNING', 'WAITING')"
        )
        with self._undisturbed(), self.reader._database.engine.connect() as connection:
            rows = connection.exec_driver_sql(query).all()
        now = {row[0]: (row[1], row[2], row[3]) for row in rows}
        lost = {key: row for key, row in self.verdicts.items() if now.get(key) != row}
        assert not lost, lost
        self.verdicts = now

    def teardown(self) -> None:
        self.countdown = 0
        try:
            self._finish()
        finally:
            sa.event.remove(sa.Engine, "commit", self._tick)
            self._die()
            for driver in self.silent:
                driver.store.close()
            self.reader.close()
            self.outside.remove_session()
            self.outside.engine.dispose()
            shutil.rmtree(self.folder)

    def _finish(self) -> None:
        """Launch once more and let everything go well."""
        self._die()
        self._launch()
        assert self.driver is not None
        search = self.driver.search
        for _ in range(50):
            if search.finished:
                break
            assignment = search.next()
            if assignment is None:
                assert search.finished, "nothing to start, and not finished"
                break
            worker = Worker(assignment, self.checkpoints)
            worker.start(search)
            while not worker.at_end:
                worker.train(search)
            worker.complete(search)
        assert search.finished
        self._check(lambda breach: False, ended=True)
        self.no_verdict_is_lost_or_changed()
        self._trials_are_what_was_drawn()

    def _trials_are_what_was_drawn(self) -> None:
        study = Study.open(self.reader, "states")
        configurations = []
        for trial in study.records():
            if trial.state != "COMPLETE" or trial.number in self.told:
                continue
            run = self.reader.run(study.experiment_id, str(trial.number))
            assert run is not None
            assert run.config == self.space.suggest(
                FixedTrial(dict(trial.parameters), trial.number)
            )
            configurations.append(run.config)
        assert all(config not in configurations[:i] for i, config in enumerate(configurations))


@pytest.fixture(params=[SPACE, WITH_RUNGS], ids=["trained to the end", "with rungs"])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> type[States]:
    monkeypatch.setattr(installation, "_git_commit", lambda: None)  # a process for every launch
    template = tmp_path / "template.db"
    Store.create(f"sqlite:///{template}").close()
    values: dict[str, Any] = {"template": template, "root": tmp_path, "space": request.param}
    return type("States", (States,), values)


@pytest.mark.slow
def test_any_order_of_events_keeps_the_invariant(machine: type[States]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(EXAMPLES or 20),
            stateful_step_count=30,
            derandomize=EXAMPLES is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
