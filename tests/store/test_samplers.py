"""What the tree-structured Parzen estimator looks at in a long study."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.search import samplers
from hpsearch.search.samplers import RecentTPE, best_and_latest

SPACE = {
    "x": optuna.distributions.FloatDistribution(0.0, 1.0),
    "n": optuna.distributions.IntDistribution(1, 50),
}


def history(count: int) -> list[FrozenTrial]:
    """Every fifth trial failed; the loss falls and rises, so that the best lie in the middle."""
    trials = []
    for number in range(count):
        params = {"x": (number * 0.618) % 1.0, "n": 1 + number * 7 % 50}
        failed = number % 5 == 4
        trials.append(
            create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                params=params,
                distributions=SPACE,
                value=None if failed else abs(number - count / 2) + params["x"],
            )
        )
        trials[-1].number = number
    return trials


def draws(sampler: optuna.samplers.BaseSampler, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler)
    study.add_trials(trials)
    asked = []
    for _ in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.suggest_int("n", 1, 50)
        trial.suggest_float("rare", 0.0, 1.0)
        asked.append(trial.params)
    return asked


def test_a_short_study_is_drawn_as_by_optuna() -> None:
    trials = history(60)
    optunas = optuna.samplers.TPESampler(seed=3, n_startup_trials=5)
    assert draws(RecentTPE(3, 5), trials) == draws(optunas, trials)


def test_a_long_study_is_drawn_as_by_optuna_from_what_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "TPE_LATEST", 30)
    trials = history(300)
    seen = best_and_latest(trials)
    assert len(seen) == 55

    def by_optuna(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
        return draws(optuna.samplers.TPESampler(seed=3, n_startup_trials=5), trials)

    # Only the first draw: by the second, the latest 30 are others.
    ours = draws(RecentTPE(3, 5), trials)[0]
    assert ours == by_optuna(seen)[0]
    assert ours != by_optuna(trials)[0]


def test_the_best_the_latest_and_the_running_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "TPE_LATEST", 4)
    monkeypatch.setattr(samplers, "TPE_BEST", 3)
    trials = history(40)
    trials[1].state = TrialState.RUNNING
    numbers = [trial.number for trial in best_and_latest(trials)]
    assert numbers == [1, 18, 20, 21, 35, 36, 37, 38]
