"""A study whose rows a test damages with SQL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from hpsearch.config.space import SearchSpace
from hpsearch.runs import record
from hpsearch.runs.messages import Assignment, Completion, EpochMetrics, Failure
from hpsearch.search.launch import launch_study
from hpsearch.search.verify import Verification, verify
from hpsearch.search.work import Search
from hpsearch.store import Store
from support.commands import PLAIN_QUICK
from support.store_examples import FACTS, metrics

QUICK = SearchSpace.parse(PLAIN_QUICK, "quick.yaml")
SPACE = QUICK.model_copy(
    update={"training": {**QUICK.training, "epochs": 5, "early_stopping_patience": 2}}
).with_overrides(trials=4, sampler="random", targets=("mu", "U0"))

LOSSES = {
    0: (10.0, 9.0, 8.0, 7.0, 6.0),
    1: (30.0,),  # and then it diverges
    2: (12.0, 11.0, 12.0, 13.0),  # early stopping ends it
    3: (20.0, 19.0),  # a scheduler stops it
    4: (16.0, 15.0, 14.0, 13.0, 12.0),
}


def train(search: Search, assignment: Assignment, *, signed: bool) -> Completion:
    losses = LOSSES[int(assignment.key)]
    mark = assignment.config.fingerprint
    search.started(assignment.key, record.signed_facts(FACTS, mark) if signed else FACTS)
    first = record.first_digest(mark, FACTS.data_hash, FACTS.split_hash)
    history: list[EpochMetrics] = []
    for epoch, loss in enumerate(losses, start=1):
        measured = metrics(epoch, loss)
        history.append(record.signed(measured, history, first) if signed else measured)
        search.epoch(assignment.key, history[-1])
    return Completion(len(losses), losses.index(min(losses)) + 1, min(losses))


def fill(store: Store, root: Path, name: str = "quick", *, signed: bool = False) -> None:
    """Record a study as workers of today do, or as those from before digests did."""
    search = launch_study(store, SPACE, name, root)
    while not search.finished:
        assignment = search.next()
        assert assignment is not None
        done = train(search, assignment, signed=signed)
        match assignment.key:
            case "1":
                search.finish("1", Failure("diverged", "the loss of step 7 is not finite"))
            case "3":
                states = store.trial_states(name)
                assert states is not None
                store.optuna_storage.set_trial_state_values(states[3].trial_id, TrialState.PRUNED)
                search.finish("3", done)
            case key:
                search.finish(key, done)
    store.leave()


@dataclass
class Rows:
    """A study's store, to do damage to."""

    store: Store

    def damage(self, *statements: str) -> None:
        """Run SQL, in which ``{T4}`` is Optuna's key of trial 4 and ``{R4}`` ours of its run."""
        for statement in statements:
            with self.store._writer.begin() as connection:
                done = connection.exec_driver_sql(self._with_keys(connection, statement))
            assert done.rowcount != 0, f"changed nothing: {statement}"

    def _with_keys(self, connection: sa.Connection, statement: str) -> str:
        trials = connection.exec_driver_sql(
            "SELECT number, trial_id FROM trials JOIN studies USING (study_id) "
            "WHERE study_name = 'quick' ORDER BY trial_id DESC"
        )
        runs = connection.exec_driver_sql(
            "SELECT key, hpsearch_runs.id FROM hpsearch_runs JOIN hpsearch_experiments "
            "ON hpsearch_experiments.id = experiment_id WHERE name = 'quick'"
        )
        keys = {f"T{number}": trial_id for number, trial_id in trials}
        return statement.format(**keys, **{f"R{key}": run_id for key, run_id in runs})

    def verify(self) -> Verification:
        return verify(self.store, "quick")

    def broken(self) -> set[tuple[str, int | None]]:
        """Rule and trial of every breach once nobody drives the study."""
        self.store.leave()
        breaches = self.verify().breaches
        assert all("\n" not in str(breach) for breach in breaches)
        found = {(breach.rule, breach.trial) for breach in breaches}
        assert len(found) == len(breaches)
        return found
