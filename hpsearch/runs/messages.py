"""What the driver and a worker send each other about one training run.

Plain data: the driver imports this without importing torch, and a worker without a database.
A search's trial and an ablation's cell are both an ``Assignment`` handed to one executor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from hpsearch.config.run import TrialConfig

FailureKind = Literal[
    "diverged",
    "out_of_memory",
    "exception",
    "worker_lost",
    "hung",
    "disk_full",
    "machine",
    "infeasible",
]

NO_VERDICTS: tuple[FailureKind, ...] = ("disk_full", "machine")
"""Failures that are no fault of the run's: the launch ends, and the next one goes on with it."""


@dataclass(frozen=True)
class Assignment:
    """One network to train.

    Attributes:
        key: unique within its experiment: the trial's number, or ``variant/target/repeat``.
        config: the run's configuration.
        directory: absolute path for its checkpoints; training continues from what lies there.
        evaluate_test: whether the test set is opened when training ends: in an ablation, and in a
            search that was launched with ``--open-test-set``.
        expected_split: hash that the worker's split must have; ``None`` accepts any.
        pieces: micro-batches into which a batch is cut, whose gradients are added up: the same step
            up to rounding, in less memory. More than the batch has molecules means one each.
    """

    key: str
    config: TrialConfig
    directory: str
    evaluate_test: bool = False
    expected_split: str | None = None
    pieces: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form for Ray; :meth:`from_dict` is its inverse."""
        return {**asdict(self), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Assignment:
        """The assignment that :meth:`to_dict` wrote."""
        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class RunFacts:
    """What a worker knows of a run before its first epoch.

    Attributes:
        weights: number of trainable weights.
        host: name of the machine.
        device: ``cpu`` or the GPU's name.
        data_hash: of the molecules' content.
        split_hash: of the three sets of molecules.
        zero_output_loss: validation loss of a network whose output is zero (Eq. 18).
        resumed_from: epoch after which it goes on; 0 for a fresh run.
        damaged: names of the checkpoint files that were found damaged and passed over.
        epochs: most epochs of the run; 0 where that is not said.
    """

    weights: int
    host: str
    device: str
    data_hash: str
    split_hash: str
    zero_output_loss: float
    resumed_from: int = 0
    damaged: Sequence[str] = ()
    epochs: int = 0


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch of training, evaluated on the validation molecules.

    Attributes:
        epoch: counted from 1.
        learning_rate: of the epoch's last optimizer step. Epochs that code from before
            30 November 2026 recorded have the rate of the step after it.
        seconds: wall-clock seconds of the epoch, its evaluation included.
        training_loss: Eq. 18 averaged over the epoch's molecules, each at the step that trained
            on it.
        validation_loss: Eq. 18, summed over targets.
        target_losses: Eq. 17 averaged over validation molecules, per target.
        target_maes: mean absolute error on validation molecules, in each target's reporting unit.
    """

    epoch: int
    learning_rate: float
    seconds: float
    training_loss: float
    validation_loss: float
    target_losses: dict[str, float]
    target_maes: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """Why a run ended without a result.

    Attributes:
        kind: ``diverged`` (a loss that is not finite), ``out_of_memory``, ``exception``,
            ``worker_lost`` (the process died), ``hung`` (silent for longer than its deadline),
            ``disk_full`` (a checkpoint could not be written), ``machine`` (no CUDA device, other
            molecules, a folder that cannot be written: what any run would meet there) or
            ``infeasible`` (out of memory whatever was tried).
        message: one line.
        traceback: the worker's traceback; empty for a divergence.
        epoch: epoch in which it happened, where known.
        step: optimizer step in which it happened, where known.
    """

    kind: FailureKind
    message: str
    traceback: str = ""
    epoch: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class Completion:
    """How a run ended well.

    Attributes:
        epochs: epochs trained.
        best_epoch: epoch of the lowest validation loss, whose weights are kept.
        best_validation_loss: that loss.
        test_loss: Eq. 18 on the test molecules with the best epoch's weights; ``None`` unopened.
        test_maes: per target in reporting units; empty unopened.
        test_residuals: per target, prediction less reference of each test molecule in reporting
            units, in the split's order; empty unopened.
        peak_memory_bytes: most memory that the worker had while it trained the run; ``None`` where
            that is not known. What earlier runs of the worker left to it counts as well.
    """

    epochs: int
    best_epoch: int
    best_validation_loss: float
    test_loss: float | None = None
    test_maes: dict[str, float] = field(default_factory=dict)
    test_residuals: dict[str, list[float]] = field(default_factory=dict)
    peak_memory_bytes: int | None = None


Outcome = Completion | Failure


@dataclass(frozen=True)
class Started:
    """A worker has built the run's network and data, or continues from its checkpoint.

    Attributes:
        key: the assignment's.
        facts: what is known before the next epoch.
        epochs: that were trained before. They are sent again, because an earlier driver may have
            died before it wrote them down.
    """

    key: str
    facts: RunFacts
    epochs: tuple[EpochMetrics, ...] = ()


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of the run has ended."""

    key: str
    metrics: EpochMetrics


@dataclass(frozen=True)
class Finished:
    """The run has ended, well or not."""

    key: str
    outcome: Outcome


Report = Started | EpochEnded | Finished
"""What a worker tells the driver."""


def to_json(report: Report) -> str:
    """The report as text for Ray; :func:`from_json` is its inverse."""
    values = _tagged(report)
    if isinstance(report, Finished):
        values["outcome"] = _tagged(report.outcome)
    return json.dumps(values)


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote."""
    values = json.loads(text)
    kind, key = values["type"], values["key"]
    match kind:
        case "Started":
            facts = RunFacts(**values["facts"])
            facts = replace(facts, damaged=tuple(facts.damaged))
            return Started(key, facts, tuple(EpochMetrics(**each) for each in values["epochs"]))
        case "EpochEnded":
            return EpochEnded(key, EpochMetrics(**values["metrics"]))
        case "Finished":
            return Finished(key, _outcome(values["outcome"]))
    raise ValueError(f"the type of a report must be one of those above, got {kind!r}")


def _tagged(value: Report | Outcome) -> dict[str, Any]:
    return {"type": type(value).__name__, **asdict(value)}


def _outcome(values: dict[str, Any]) -> Outcome:
    kinds: dict[str, type[Completion] | type[Failure]] = {
        kind.__name__: kind for kind in (Completion, Failure)
    }
    kind = kinds[values.pop("type")]
    return kind(**values)


class Work(Protocol):
    """A source of assignments that also keeps their results: a study or an ablation.

    The executor calls it from one thread of the driver. It calls ``next`` again after any run has
    ended, so a run that failed can be replaced.
    """

    def next(self) -> Assignment | None:
        """The next run, or ``None`` when there is none to start now."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to start, now or after the running ones have ended."""

    def started(self, key: str, facts: RunFacts) -> None:
        """A worker has built the run's network and data."""

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch has ended; may come twice for one that is repeated after a fault."""

    def retried(self, key: str, failure: Failure) -> None:
        """The run failed and goes on, from its last checkpoint: ``started`` follows again."""

    def finish(self, key: str, outcome: Outcome) -> None:
        """The run has ended. Idempotent."""
