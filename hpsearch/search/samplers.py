"""Optuna's samplers by name, with a new seed for every trial."""

from __future__ import annotations

import copy
import hashlib
import heapq
import warnings
from collections.abc import Callable, Container, Sequence
from functools import cached_property
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpsearch.config.space import SearchSpace
from hpsearch.store import PAUSED
from hpsearch.system.errors import InputError

TPE_LATEST = 250
"""Number of the latest finished trials that TPE sees, besides the best ones."""

TPE_BEST = 25
"""The most trials that TPE treats as good ones."""


class RecentTPE(optuna.samplers.TPESampler):
    """Optuna's TPE, limited to the best and the latest trials.

    The time of a sample does not grow with the study. With up to :data:`TPE_LATEST` finished trials
    it samples the same as Optuna's TPE. With more, the density of good trials still comes from the
    best of all trials. The density of the other trials, which Optuna weights by their age, comes
    from the latest.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials)
        self._seen: optuna.Study | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin a trial; the history is read once for all of its parameters."""
        self._seen = None
        super().before_trial(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values of the parameters that are sampled together."""
        return super().sample_relative(self._limited(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one parameter."""
        return super().sample_independent(
            self._limited(study), trial, param_name, param_distribution
        )

    def _limited(self, study: optuna.Study) -> optuna.Study:
        if self._seen is None:
            trials = study.get_trials(deepcopy=False)
            self._seen = PartOfStudy.of(study, best_and_latest(trials))
        return self._seen


class _ReadOnce:
    """A study whose trials are read only once, on first use."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @cached_property
    def _trials(self) -> list[FrozenTrial]:
        return [_as_sampled(trial) for trial in self._study.get_trials(deepcopy=False)]

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        # Optuna's samplers read the history with this method, always without a copy.
        return self.get_trials(deepcopy, states)


def _as_sampled(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as a sampler sees it: a paused one as pruned at its last rung.

    TPE counts a running trial among the bad ones, whatever its losses. A pruned trial comes after
    all complete ones, by its last rung and its loss there. ``gp`` and ``qmc`` leave it out.
    """
    if trial.state != TrialState.RUNNING or trial.user_attrs.get(PAUSED) is None:
        return trial
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    return shown


class PartOfStudy(_ReadOnce):
    """A study that shows Optuna's samplers and importances only these trials."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        super().__init__(study)
        self._trials = trials

    @classmethod
    def of(cls, study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
        """Return ``study`` with these trials; Optuna would copy each trial that is added."""
        return cast(optuna.Study, cls(study, trials))


def best_and_latest(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the :data:`TPE_BEST` best, the :data:`TPE_LATEST` latest finished and all running.

    Args:
        trials: of a study that minimises, by number.
    """
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    complete = (t for t in finished if t.state == TrialState.COMPLETE)
    best = heapq.nsmallest(TPE_BEST, complete, key=lambda trial: trial.values[0])
    chosen = {trial.number for trial in [*best, *finished[-TPE_LATEST:]]}
    return [t for t in trials if t.state == TrialState.RUNNING or t.number in chosen]


def _random(space: SearchSpace, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(space: SearchSpace, seed: int) -> BaseSampler:
    return RecentTPE(seed, space.startup_trials)


def _gp(space: SearchSpace, seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=space.startup_trials, warn_independent_sampling=False
    )


def _qmc(space: SearchSpace, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # QMCSampler has been experimental since Optuna 3, because its storage format may change.
        # That does not matter here: a study belongs to one version of Optuna.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.QMCSampler(
            scramble=True,
            # One seed for all trials: they share a sequence, whose position Optuna stores.
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
    """Return the seed of the sampler for trial ``number``."""
    digest = hashlib.sha256(f"sampler/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class SeededPerTrial(BaseSampler):
    """The space's sampler, created again for every trial with a seed from the trial's number.

    A sampler that is seeded only once would repeat its configurations after every relaunch, unless
    its state were stored with the study.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Choose the sampler.

        Raises:
            InputError: the space's sampler is unknown.
        """
        if space.sampler not in SAMPLERS:
            raise InputError(
                f"the sampler must be one of {', '.join(SAMPLERS)}; got '{space.sampler}'"
            )
        self._space = space
        self._sampler = self._seeded(0)
        # One sampler for all trials: which parameters are sampled together is not random, and it
        # reads only the trials since the last call. A new sampler would read all of them.
        self._inferring = self._sampler
        self._history: _ReadOnce | None = None

    def _read_once(self, study: optuna.Study) -> optuna.Study:
        """Return ``study`` with its trials read once for all parameters of a trial."""
        if self._history is None:
            self._history = _ReadOnce(study)
        return cast(optuna.Study, self._history)

    def _seeded(self, number: int) -> BaseSampler:
        return SAMPLERS[self._space.sampler](self._space, trial_seed(self._space.seed, number))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin a trial: Optuna calls this before it samples the first parameter."""
        self._sampler = self._seeded(trial.number)
        self._history = None
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        return self._inferring.infer_relative_search_space(self._read_once(study), trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values of the parameters that are sampled together."""
        return self._sampler.sample_relative(self._read_once(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one parameter."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
