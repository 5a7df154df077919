"""Optuna's samplers by name, seeded anew for every trial."""

from __future__ import annotations

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
from hpsearch.errors import InputError

TPE_LATEST = 250
"""So many of the latest trials with a verdict are shown to TPE, beside the best ones."""

TPE_BEST = 25
"""The most trials that TPE counts among the good ones, however many there are."""


class RecentTPE(optuna.samplers.TPESampler):
    """Optuna's TPE that reads only the best and the latest trials.

    A draw takes the same time however long the study is. Up to :data:`TPE_LATEST` trials with a
    verdict it draws what Optuna's TPE draws. Beyond that the density of good trials still comes
    from the best of all; the density of the others, which Optuna weights by how late they came,
    comes from the latest.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup_trials)
        self._seen: optuna.Study | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin a trial; its history is read once for all of its parameters."""
        self._seen = None
        super().before_trial(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Values of the parameters that are drawn together."""
        return super().sample_relative(self._look(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Value of one parameter."""
        return super().sample_independent(self._look(study), trial, param_name, param_distribution)

    def _look(self, study: optuna.Study) -> optuna.Study:
        if self._seen is None:
            trials = study.get_trials(deepcopy=False)
            self._seen = cast(optuna.Study, _PartOfStudy(study, best_and_latest(trials)))
        return self._seen


class _ReadOnce:
    """A study whose trials are read when they are first asked for, and never again."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @cached_property
    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

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
        # Optuna's samplers read their history by this method, always without a copy.
        return self.get_trials(deepcopy, states)


class _PartOfStudy(_ReadOnce):
    """A study as a sampler sees it that is shown some of the trials."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        super().__init__(study)
        self._trials = trials


def best_and_latest(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The :data:`TPE_BEST` best, the :data:`TPE_LATEST` latest with a verdict, and all running.

    Args:
        trials: of a study that minimises, by number.
    """
    verdicts = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    complete = (t for t in verdicts if t.state == TrialState.COMPLETE)
    best = heapq.nsmallest(TPE_BEST, complete, key=lambda trial: trial.values[0])
    kept = {trial.number for trial in [*best, *verdicts[-TPE_LATEST:]]}
    return [t for t in trials if t.state == TrialState.RUNNING or t.number in kept]


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

    A sampler that was seeded once would draw the same configurations again after every relaunch,
    unless its state were saved with the study.
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
        # Which parameters are drawn together is not random, and found from the trials since the
        # last look; a new sampler would go through all of them.
        self._inferring = self._sampler
        self._history: _ReadOnce | None = None

    def _read_once(self, study: optuna.Study) -> optuna.Study:
        """``study``, whose trials are read once for all that is drawn of a trial."""
        if self._history is None:
            self._history = _ReadOnce(study)
        return cast(optuna.Study, self._history)

    def _seeded(self, number: int) -> BaseSampler:
        return SAMPLERS[self._space.sampler](self._space, trial_seed(self._space.seed, number))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin trial ``trial.number``: Optuna calls this before the first parameter is drawn."""
        self._sampler = self._seeded(trial.number)
        self._history = None
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are drawn together."""
        return self._inferring.infer_relative_search_space(self._read_once(study), trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Values of the parameters that are drawn together."""
        return self._sampler.sample_relative(self._read_once(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Value of one parameter."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
