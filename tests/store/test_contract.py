"""What both stores promise to many processes at once, through the code that the driver uses.

A study has one driver; but what one process asks, reports and tells must hold whatever others do,
or a driver that is replaced could harm the one that replaces it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from hpsearch.config.space import SearchSpace
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.trials import TrialRows
from hpsearch.store import Store
from hpsearch.system import installation

PROCESSES = 8
TRIALS = int(os.environ.get("HPSEARCH_CONTRACT_TRIALS", "15"))
"""Of each process; `make faults` has 50."""
ENQUEUED = 30
EPOCHS = 2
NAME = "shared"
LONGEST_SECONDS = 400.0

_together: Barrier | None = None


@dataclass
class Account:
    """What one process did.

    Attributes:
        drawn: number of each trial that it asked to its parameters.
        seen: number of each trial that all raced to tell to the value that stood when this
            process had told its own.
    """

    drawn: dict[int, dict[str, Any]] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)


def _rows(store: Store) -> TrialRows:
    space = SearchSpace.load(installation.folder("search_spaces") / "table3.yaml")
    return TrialRows(store, NAME, SeededPerTrial(space))


def _parameters(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    space.suggest(trial)
    return trial.params


def _losses(number: int) -> dict[int, float]:
    return {epoch: number + 1.0 / epoch for epoch in range(1, EPOCHS + 1)}


def _join(together: Barrier) -> None:
    global _together
    _together = together


def _work(url: str, process: int) -> Account:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace.load(installation.folder("search_spaces") / "table3.yaml")
    account = Account()
    assert _together is not None
    with Store.create(url) as store:
        rows = _rows(store)
        _together.wait(LONGEST_SECONDS)
        for _ in range(TRIALS):
            trial = rows.ask(enqueued=True)
            params = rows.draw(trial, lambda trial: _parameters(space, trial))
            assert params is not None
            account.drawn[trial.number] = params
            for epoch, loss in _losses(trial.number).items():
                rows.report(trial._trial_id, epoch, loss)
            rows.annotate(trial._trial_id, {"process": process, "number": trial.number})
            if trial.number % 10:
                rows.complete(trial._trial_id, _losses(trial.number)[EPOCHS])
                rows.complete(trial._trial_id, -1.0)
        _together.wait(LONGEST_SECONDS)
        left = [row for row in rows.states() if row.state == "RUNNING"]
        # Nobody tells before all have seen that the trials are running.
        _together.wait(LONGEST_SECONDS)
        for row in left:
            rows.complete(row.trial_id, 1000.0 + process)
            told = rows.read(row.trial_id)
            assert told is not None
            assert told.value is not None
            account.seen[row.number] = told.value
    return account


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_processes_share_a_study(url: str) -> None:
    with Store.create(url) as store:
        _rows(store)
        study = optuna.load_study(study_name=NAME, storage=store.optuna_storage)
        rates = [0.001 * (1 + place) for place in range(ENQUEUED)]
        for rate in rates:
            study.enqueue_trial({"learning_rate": rate})
    # The processes are forks of one that has the imports, which take seconds each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hpsearch.search.trials", "hpsearch.store.writer", "psycopg"])
    together = context.Barrier(PROCESSES)
    with context.Pool(PROCESSES, _join, (together,)) as pool:
        # An error of any process ends the test: none may see that the database was locked.
        accounts = pool.starmap(_work, [(url, n) for n in range(PROCESSES)], chunksize=1)

    total = PROCESSES * TRIALS
    assert [len(account.drawn) for account in accounts] == [TRIALS] * PROCESSES
    asked = sorted(number for account in accounts for number in account.drawn)
    assert asked == list(range(total))
    with Store.open(url) as store:
        study = optuna.load_study(study_name=NAME, storage=store.optuna_reader)
        trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(total))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}

    for process, account in enumerate(accounts):
        for number, params in account.drawn.items():
            assert trials[number].params == params
            assert trials[number].user_attrs == {"process": process, "number": number}
            assert trials[number].intermediate_values == _losses(number)
            if number % 10:
                assert trials[number].value == _losses(number)[EPOCHS]
    taken = Counter(trial.params["learning_rate"] for trial in trials)
    assert [taken[rate] for rate in rates] == [1] * ENQUEUED

    raced = list(range(0, total, 10))
    for number in raced:
        seen = [account.seen[number] for account in accounts]
        # Whoever told second found the first one's value, and it never changed again.
        assert set(seen) == {trials[number].value}
        assert sum(value == 1000.0 + n for n, value in enumerate(seen)) == 1
    assert all(sorted(account.seen) == raced for account in accounts)
