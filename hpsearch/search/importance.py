"""How much each hyperparameter decides, for the loss and for each target's part of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

LEAST_TRIALS = 5
"""Complete trials below which nothing is said."""


def importances(
    trials: Sequence[FrozenTrial], losses: Mapping[str, Mapping[int, float]]
) -> pd.DataFrame:
    """Optuna's PED-ANOVA: how far the best trials' values of a parameter are from all trials'.

    Args:
        trials: of a study.
        losses: of each loss by name, its value by the trial's number.

    Returns:
        One row per loss, one column per parameter, in ``losses``' order and by falling mean; each
        row adds up to 1. Empty for fewer than :data:`LEAST_TRIALS` complete trials.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, values in losses.items():
        known = [t for t in trials if t.state == TrialState.COMPLETE and t.number in values]
        if len(known) < LEAST_TRIALS:
            continue
        rows[name] = _importances(known, values)
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0.0)
    return table[table.mean().sort_values(ascending=False).index]


def _importances(trials: Sequence[FrozenTrial], values: Mapping[int, float]) -> dict[str, float]:
    # It would say of every one that it was created.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=values[trial.number],
                params=trial.params,
                distributions=trial.distributions,
            )
            for trial in trials
        ]
    )
    with warnings.catch_warnings():
        # Of parameters that had one value only: their importance is 0.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)
