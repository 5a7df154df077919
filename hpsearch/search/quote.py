"""The estimate of a search's cost, before it is launched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, Self, final

import numpy as np
import optuna

from hpsearch.config.architecture import weights_of
from hpsearch.config.run import TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.cost.estimate import makespan
from hpsearch.cost.model import CostModel, refusal
from hpsearch.cost.timings import Timing
from hpsearch.search.rungs import Part, expected_epochs, expected_parts, most_paused
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.trials import KEPT_WEIGHTS

DRAWS = 200
"""Number of sampled configurations that represent the space."""

TIMED = 8
"""Number of them that are timed."""

FEWER_MOLECULES = 10_000
FEWER_EPOCHS = 3
FEWER_TRIALS = 10
"""Smaller sizes, proposed to shorten a long search."""

SIMULATIONS = 400
INTERVAL = 0.9
"""The fraction of the simulated searches that lies in the interval of hours."""

_BYTES_A_WEIGHT = 32
"""On the disk, for a running trial: two checkpoints (weights and Adam's two moments) and two sets
of best weights. The older one of each is removed after the newer one is complete."""

_KEPT_BYTES_A_WEIGHT = 4


def random_configs(space: SearchSpace) -> Iterator[TrialConfig]:
    """Yield random configurations without end, the same as the trials of the sampler ``random``."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = SeededPerTrial(space.model_copy(update={"sampler": "random"}))
    study = optuna.create_study(sampler=sampler)
    while True:
        yield space.suggest(study.ask())


def draw_configs(space: SearchSpace, count: int) -> list[TrialConfig]:
    """Return the first ``count`` random configurations of a space."""
    return list(itertools.islice(random_configs(space), count))


def usual_epochs(space: SearchSpace) -> float:
    """Return the most epochs of a trial; the mean if the space searches the epochs."""
    configs = draw_configs(space, DRAWS if "epochs" in space.parameters else 1)
    return mean(config.training.epochs for config in configs)


def planned_parts(space: SearchSpace, trials: int, epoch_seconds: float | None) -> list[Part]:
    """Return the parts of the trials' training with early stopping; an empty list without it.

    Args:
        space: the search space.
        trials: number of trials to draw.
        epoch_seconds: usual seconds of an epoch, if they are known. Rungs in seconds need them.
    """
    rungs = space.early_stopping
    if rungs is None or (rungs.seconds is not None and epoch_seconds is None):
        return []
    most = int(space.training["epochs"])
    return expected_parts(rungs, rungs.epochs_of(most, epoch_seconds), most, trials)


def choose_to_time(configs: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return :data:`TIMED` different configurations, or fewer if there are fewer, light to heavy.

    They are different, because two equal ones would make the model's error look too small.
    """
    different = {config.fingerprint: config for config in configs}
    by_weight = sorted(different.values(), key=_rough_work)
    number = min(TIMED, len(by_weight))
    places = [math.floor((n + 0.5) / number * len(by_weight)) for n in range(number)]
    return [by_weight[place] for place in places]


def _rough_work(config: TrialConfig) -> float:
    weights = weights_of(config)
    return weights * config.training.batch_size


@final
@dataclass(frozen=True)
class Quote:
    """The estimate of a search's cost.

    Attributes:
        configs: sampled configurations within the budget.
        timings: the model's timing of each configuration.
        weights: number of trainable weights of each configuration.
        refused: number of sampled configurations that exceed the budget.
        trials: number of trials to train.
        done: number of trials that are already finished.
        places: number of trials at a time.
        memory: bytes available for each of them; ``None`` if unknown.
        seconds: seconds of the search: low end, middle and high end of the interval.
        run_seconds: seconds of all trials, one after the other: low end, middle and high end.
        device: ``core`` or ``GPU``.
        devices: number of cores, or GPUs, of each trial.
        timed: number of configurations to which the model was fitted.
        typical_error: the model's median relative error of the seconds per epoch.
        epochs: epochs of all trials, if each is trained to its end.
        planned_epochs: epochs of all trials with early stopping; ``None`` without it.
        paused: the most trials that wait at a rung at once, whose checkpoints are kept.
    """

    configs: tuple[TrialConfig, ...]
    timings: tuple[Timing, ...]
    weights: tuple[int, ...]
    refused: int
    trials: int
    done: int
    places: int
    memory: int | None
    seconds: tuple[float, float, float]
    run_seconds: tuple[float, float, float]
    device: str
    devices: float
    timed: int
    typical_error: float | None
    epochs: float
    planned_epochs: int | None
    paused: int

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        model: CostModel,
        places: int,
        memory: int | None,
        *,
        done: int = 0,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> Self:
        """Return the estimate for ``space``.

        Args:
            space: the search space.
            model: the cost model.
            places: number of trials at a time.
            memory: bytes available for all of them together.
            done: number of trials that are already finished.
            cpus: cores of a trial.
            gpus: GPUs of a trial.
        """
        configs = draw_configs(space, max(DRAWS, space.trials))
        within = [config for config in configs if refusal(space.budget, config, model) is None]
        timings = [model.timing(config) for config in within]
        trials = max(space.trials - done, 0)
        usual = median(timing.epoch_seconds for timing in timings) if timings else None
        parts = planned_parts(space, trials, usual)
        # With early stopping, every trial counts with the epochs that a trial has on average.
        planned = expected_epochs(parts) / trials if parts and trials else None
        runs = [
            timing.run_seconds(planned or config.training.epochs, tested=False)
            for config, timing in zip(within, timings, strict=True)
        ]
        known = runs[done : space.trials] if space.sampler == "random" else []
        taken = known if len(known) == trials else runs
        return cls(
            configs=tuple(within),
            timings=tuple(timings),
            weights=tuple(weights_of(c) for c in within),
            refused=len(configs) - len(within),
            trials=trials,
            done=done,
            places=places,
            memory=None if memory is None else memory // places,
            seconds=_interval(taken, model.errors, trials, places),
            run_seconds=_interval(taken, model.errors, trials, 1),
            device="GPU" if gpus else "core",
            devices=gpus or cpus,
            timed=len(model.timed),
            typical_error=model.typical_error,
            epochs=trials * usual_epochs(space),
            planned_epochs=expected_epochs(parts) if parts else None,
            paused=0 if (rungs := space.early_stopping) is None else most_paused(rungs, trials),
        )

    @property
    def too_large(self) -> float | None:
        """The fraction of the configurations that need more memory than a trial has."""
        if self.memory is None or not self.timings:
            return None
        return sum(timing.memory_bytes > self.memory for timing in self.timings) / len(self.timings)

    @property
    def device_hours(self) -> float:
        """Core hours, or GPU hours, of all trials."""
        return self.run_seconds[1] * self.devices / 3600

    @property
    def disk_bytes(self) -> int:
        """The most disk space of running and paused trials' checkpoints and the best's weights."""
        most = max(self.weights, default=0)
        kept = min(KEPT_WEIGHTS, self.trials)
        begun = self.places + self.paused
        return most * (_BYTES_A_WEIGHT * begun + _KEPT_BYTES_A_WEIGHT * kept)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe summary."""
        epochs = [timing.epoch_seconds for timing in self.timings]
        memory = [timing.memory_bytes for timing in self.timings]
        return {
            "trials": self.trials,
            "done": self.done,
            "places": self.places,
            "draws": len(self.configs) + self.refused,
            "refused": self.refused,
            "weights": _spread(self.weights),
            "epoch_seconds": _spread(epochs),
            "memory_bytes": _spread(memory),
            "too_large": self.too_large,
            "disk_bytes": self.disk_bytes,
            "seconds": _ends(self.seconds) if self.timings else None,
            "run_seconds": _ends(self.run_seconds) if self.timings else None,
            "start_seconds": median(t.start_seconds for t in self.timings)
            if self.timings
            else None,
            f"{self.device.lower()}_hours": self.device_hours if self.timings else None,
            "timed": self.timed,
            "typical_error": self.typical_error,
            "epochs": self.epochs,
            "planned_epochs": self.planned_epochs,
            "paused": self.paused,
        }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"least": min(values), "middle": median(values), "most": max(values)}


def _ends(interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("low", "middle", "high"), interval, strict=True))


def _interval(
    runs: Sequence[float],
    errors: Sequence[float],
    trials: int,
    places: int,
) -> tuple[float, float, float]:
    """Return low end, middle and high end of the search's seconds, by simulation.

    A simulated search consists of all ``runs`` if there are ``trials`` of them, else of a random
    choice. Each trial's seconds are changed by a random error that the model made on a timed
    configuration. All are also changed by the square root of one common error factor, because a
    machine is sometimes slower.
    """
    if not runs or trials == 0:
        return 0.0, 0.0, 0.0
    random = np.random.default_rng(0)
    factors = np.array([1 / (1 + error) for error in errors] or [1.0])
    simulated = []
    for _ in range(SIMULATIONS):
        chosen = np.array(runs) if len(runs) == trials else random.choice(runs, trials)
        common = random.choice(factors) ** 0.5
        seconds = chosen * random.choice(factors, trials) * common
        simulated.append(makespan([0.0] * places, seconds.tolist()))
    low, middle, high = np.quantile(simulated, [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2])
    return float(low), float(middle), float(high)


def shorter_searches(
    space: SearchSpace,
    model: CostModel,
    places: int,
    *,
    done: int = 0,
    launched: bool = False,
) -> list[tuple[str, float]]:
    """Return options that shorten the search, with the seconds that it would then take.

    Args:
        space: the search space.
        model: the cost model.
        places: number of trials at a time.
        done: number of trials that are already finished.
        launched: whether the study is in the store. Then only its number of trials may change.
            Other sizes or epochs need a new study, which starts from the beginning.
    """
    epochs = max(config.training.epochs for config in draw_configs(space, DRAWS))
    other, done_there = (" --study NAME", 0) if launched else ("", done)
    changes: list[tuple[str, dict[str, Any], int]] = []
    if space.data.split_file is None and space.data.train_size > FEWER_MOLECULES:
        option = f"--train-size {FEWER_MOLECULES}{other}"
        changes.append((option, {"train_size": FEWER_MOLECULES}, done_there))
    if epochs > FEWER_EPOCHS:
        changes.append((f"--epochs {FEWER_EPOCHS}{other}", {"epochs": FEWER_EPOCHS}, done_there))
    if space.trials > FEWER_TRIALS > done:
        changes.append((f"--trials {FEWER_TRIALS}", {"trials": FEWER_TRIALS}, done))
    found = []
    for option, change, finished in changes:
        quote = Quote.of(space.with_overrides(**change), model, places, None, done=finished)
        found.append((option, quote.seconds[1]))
    return found


def is_covered(space: SearchSpace, quote: Quote, model: CostModel) -> bool:
    """Whether ``model`` was fitted to configurations like those of the estimate.

    If all configurations exceed the budget, random ones are used instead.

    Args:
        space: the search space.
        quote: the estimate for the space.
        model: the model that made the estimate.
    """
    return all(map(model.covers, choose_to_time(quote.configs or draw_configs(space, DRAWS))))
