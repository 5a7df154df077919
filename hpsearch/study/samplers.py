"""Optuna's samplers by name, seeded anew for every trial."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpsearch.errors import InputError
from hpsearch.search_space import SearchSpace


def _random(space: SearchSpace, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(space: SearchSpace, seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=space.startup_trials)


def _gp(space: SearchSpace, seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=space.startup_trials, warn_independent_sampling=False
    )


def _qmc(space: SearchSpace, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # It has been marked so since Optuna 3; its storage format is the part that may change,
        # and a study belongs to one version of Optuna anyhow.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.QMCSampler(
            scramble=True,
            # All trials must walk the same sequence; Optuna counts the place in it per study.
            seed=space.seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )


SAMPLERS: dict[str, Callable[[SearchSpace, int], BaseSampler]] = {
    "random": _random,
    "tpe": _tpe,
    "gp": _gp,
    "qmc": _qmc,
}


def trial_seed(seed: int, number: int) -> int:
    """Seed of the sampler that draws trial ``number``."""
    digest = hashlib.sha256(f"sampler/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class SeededPerTrial(BaseSampler):
    """The space's sampler, made anew for every trial with a seed from the trial's number.

    One sampler seeded once would draw the same configurations again after every relaunch, and
    would have to be saved with the study to avoid it.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Choose the sampler.

        Raises:
            InputError: the space names one that is not known here.
        """
        if space.sampler not in SAMPLERS:
            raise InputError(
                f"the sampler must be one of {', '.join(SAMPLERS)}; got '{space.sampler}'"
            )
        self._space = space
        self._sampler = self._seeded(0)

    def _seeded(self, number: int) -> BaseSampler:
        return SAMPLERS[self._space.sampler](self._space, trial_seed(self._space.seed, number))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin trial ``trial.number``: Optuna calls this before the first parameter is drawn."""
        self._sampler = self._seeded(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are drawn together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Values of the parameters that are drawn together."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Value of one parameter."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
