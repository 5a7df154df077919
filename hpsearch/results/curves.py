"""Recorded curves of a study that was trained to its end, from the store or from a file.

A file of curves is JSON. ``hpsearch replay -o FOLDER`` writes it, and ``hpsearch replay --curves``
reads it. So people can replay a study without its store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from hpsearch.config.declaration import Strict
from hpsearch.config.parameters import Scalar
from hpsearch.config.run import Count, PositiveCount, ScheduleName, fingerprint
from hpsearch.config.space import SearchSpace
from hpsearch.config.space_check import schedules
from hpsearch.search.study import Study
from hpsearch.store import StoreReader, TrialRecord
from hpsearch.system.errors import InputError, one_line

LEAST_TRIALS = 5
"""The least number of complete configurations for a replay."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class RecordedCurve(Strict):
    """The recorded epochs of a trial.

    Attributes:
        number: of the trial.
        losses: validation loss after each epoch (Eq. 18).
        seconds: mean seconds of an epoch.
        configuration: fingerprint of the configuration without its seed; trials with the same one
            differ in the seed only.
        weights: number of weights; ``None`` if not recorded.
        parameters: the searched hyperparameters.
    """

    number: Count
    losses: Annotated[tuple[_Finite, ...], Field(strict=False, min_length=1)]
    seconds: Annotated[_Finite, Field(ge=0)]
    configuration: str = ""
    weights: PositiveCount | None = None
    parameters: dict[str, Scalar] = Field(default_factory=dict)

    def lowest(self, epoch: int) -> float:
        """Return the lowest loss of the first epochs; a trial that ended early keeps its last."""
        return min(self.losses[:epoch])


class Recorded(Strict):
    """Where and when curves were recorded.

    Attributes:
        study: name of the study.
        started: when it was launched first, ISO 8601.
        space: the search space as the store keeps it, with all fixed values and its hash.
        data_hash: hash of the molecules' content; ``None`` if not recorded.
        git_commit: commit of the code, if it ran from a checkout.
        versions: versions of hpsearch, Python and the packages that decide the result.
        zero_output_loss: loss of a network that outputs zero; ``None`` if not recorded.
    """

    study: str
    started: str
    space: dict[str, Any]
    data_hash: str | None
    git_commit: str | None
    versions: dict[str, str | None]
    zero_output_loss: _Finite | None


class Curves(Strict):
    """All curves of a study.

    Attributes:
        format: of the file.
        recorded: where and when.
        trials: the complete trials, by number.
    """

    format: Literal["hpsearch-curves/1"] = "hpsearch-curves/1"
    recorded: Recorded
    trials: Annotated[tuple[RecordedCurve, ...], Field(strict=False)]

    @property
    def draws(self) -> list[RecordedCurve]:
        """The first trial of each configuration, by number."""
        return [trials[0] for trials in self._by_configuration()]

    @property
    def repeated(self) -> list[list[RecordedCurve]]:
        """The trials of each configuration that was trained more than once."""
        return [trials for trials in self._by_configuration() if len(trials) > 1]

    @property
    def epochs(self) -> int:
        """The epochs of the longest trial."""
        return max(len(curve.losses) for curve in self.trials)

    @property
    def schedules(self) -> tuple[ScheduleName, ...]:
        """The schedules that a trial may have."""
        space = SearchSpace.from_provenance(self.recorded.space)
        return schedules(space.training, space.parameters)

    def to_json(self) -> str:
        """Return the content of a file of curves."""
        return self.model_dump_json(indent=1) + "\n"

    def _by_configuration(self) -> list[list[RecordedCurve]]:
        found: dict[str, list[RecordedCurve]] = {}
        for curve in self.trials:
            # Without a configuration nothing says that two trials are the same.
            found.setdefault(curve.configuration or str(curve.number), []).append(curve)
        return list(found.values())


class Noise(Strict):
    """How much the lowest loss of one configuration differs between seeds.

    Attributes:
        relative: standard deviation divided by the mean, pooled over the configurations.
        interval: its 95 % interval, for normally distributed losses.
        configurations: number of configurations that were trained more than once.
        trials: number of their trials.
    """

    relative: float
    interval: tuple[float, float]
    configurations: int
    trials: int

    @classmethod
    def of(cls, repeated: Iterable[Iterable[RecordedCurve]]) -> Noise | None:
        """Return the noise between the trials of each configuration; ``None`` without any."""
        squares, trials, configurations = 0.0, 0, 0
        for curves in repeated:
            lowest = np.array([min(curve.losses) for curve in curves])
            deviations = lowest / lowest.mean() - 1.0
            squares += float(deviations @ deviations)
            trials += len(lowest)
            configurations += 1
        freedom = trials - configurations
        if not freedom:
            return None
        from scipy.stats import chi2  # takes long to load

        low, high = (math.sqrt(squares / float(chi2.ppf(part, freedom))) for part in (0.975, 0.025))
        return cls(
            relative=math.sqrt(squares / freedom),
            interval=(low, high),
            configurations=configurations,
            trials=trials,
        )


def recorded_curves(store: StoreReader, name: str | None = None) -> Curves:
    """Return the curves of a study's complete trials.

    Args:
        store: the store of the study.
        name: of the study; by default the one launched last.

    Raises:
        InputError: there is no such study, it has too few complete trials, or some of its trials
            were stopped early.
    """
    study = Study.open(store, name)
    trials = study.records()
    if stopped := sum(trial.state in ("PRUNED", "PAUSED") for trial in trials):
        raise InputError(
            f"a replay needs trials that were trained to their end; of the study '{study.name}' "
            f"{stopped} of {len(trials)} were stopped early, so nobody knows what they would "
            "have reached; replay a study without rungs"
        )
    complete = {str(trial.number): trial for trial in trials if trial.state == "COMPLETE"}
    runs = store.runs(study.experiment_id)
    configurations = dict(zip(runs["key"], map(_without_seed, runs["configuration"]), strict=True))
    found = []
    epochs = store.epochs(study.experiment_id).sort_values(["key", "epoch"])
    for key, rows in epochs.groupby("key", sort=False):
        losses = tuple(rows["validation_loss"].astype(float))
        if (trial := complete.get(str(key))) is not None and all(map(math.isfinite, losses)):
            curve = RecordedCurve(
                number=trial.number,
                losses=losses,
                seconds=float(rows["seconds"].mean()),
                configuration=configurations.get(str(key), ""),
                weights=trial.facts.get("weights"),
                parameters=dict(trial.parameters),
            )
            found.append(curve)
    curves = Curves(
        recorded=_recorded(study, complete.values()),
        trials=tuple(sorted(found, key=lambda curve: curve.number)),
    )
    return _enough(curves, f"the study '{study.name}'")


def read_curves(path: Path) -> Curves:
    """Return the curves of a file.

    Raises:
        InputError: the file cannot be read, is not valid, or has too few complete trials.
    """
    try:
        curves = Curves.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: must be a file of curves that 'hpsearch replay -o' wrote; "
            f"{where + ': ' if where else ''}{one_line(first['msg'])}"
        ) from None
    return _enough(curves, str(path))


def _enough(curves: Curves, where: str) -> Curves:
    if (count := len(curves.draws)) < LEAST_TRIALS:
        raise InputError(
            f"a replay needs at least {LEAST_TRIALS} complete trials, {where} has "
            f"{count}; wait for more, or replay another study"
        )
    return curves


def _without_seed(configuration: dict[str, Any]) -> str:
    """Return the fingerprint of a configuration without the seed of its training."""
    training = {k: v for k, v in configuration.get("training", {}).items() if k != "seed"}
    return fingerprint({**configuration, "training": training})


def _recorded(study: Study, trials: Iterable[TrialRecord]) -> Recorded:
    provenance = study.provenance
    return Recorded(
        study=study.name,
        started=f"{study.created_at:%Y-%m-%dT%H:%M}Z",
        space=provenance["space"],
        data_hash=provenance.get("data_hash"),
        git_commit=provenance.get("git_commit"),
        versions=provenance.get("versions") or {},
        zero_output_loss=next((trial.facts.get("zero_output_loss") for trial in trials), None),
    )
