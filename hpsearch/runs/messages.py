"""The messages between the driver and a worker about a run.

They are plain data: importing them needs neither torch (for the driver) nor a database (for the
worker). A trial of a search and a cell of an ablation are both an ``Assignment``, and one executor
runs them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # it loads pydantic, which most reading of a store does not need
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
"""Failures that are not the run's fault: the launch ends, and the next one resumes the run."""


@dataclass(frozen=True)
class Assignment:
    """A run to train.

    Attributes:
        key: unique within its experiment: the trial's number, or ``variant/target/repeat``.
        config: the configuration of the run.
        directory: absolute path of its checkpoints, from which training resumes.
        evaluate_test: whether the network is evaluated on the test set after training: in an
            ablation, and in a search that was launched with ``--open-test-set``.
        expected_split: hash that the worker's split must have; ``None`` accepts any.
        until: the epoch after which the run pauses; ``None`` trains it to its end.
        pieces: micro-batches into which a batch is cut. Their gradients are added, which gives the
            same step up to rounding in less memory. There are at most as many as molecules.
    """

    key: str
    config: TrialConfig
    directory: str
    evaluate_test: bool = False
    expected_split: str | None = None
    until: int | None = None
    pieces: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The assignment as JSON for Ray; :meth:`from_dict` is the inverse."""
        return {**asdict(self), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Assignment:
        """The assignment from the output of :meth:`to_dict`."""
        from hpsearch.config.run import TrialConfig

        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class RunFacts:
    """The facts that a worker knows about a run before its first epoch.

    Attributes:
        weights: number of trainable weights.
        host: name of the machine.
        device: ``cpu`` or the GPU's name.
        data_hash: hash of the molecules' content.
        split_hash: hash of the three sets of molecules.
        zero_output_loss: validation loss of a network that outputs zero (Eq. 18).
        resumed_from: epoch after which the run resumes; 0 for a new run.
        damaged: names of damaged checkpoint files that were skipped.
        epochs: maximum number of epochs of the run; 0 if unknown.
        digest: `hpsearch.runs.record.facts_digest` of these facts; empty if unsigned.
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
    digest: str = ""


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of an epoch, evaluated on the validation molecules.

    Attributes:
        epoch: number of the epoch, from 1.
        learning_rate: learning rate of the epoch's last optimizer step. Epochs recorded by code
            from before 30 November 2026 have the rate of the step after it.
        seconds: wall-clock seconds of the epoch, evaluation included.
        training_loss: Eq. 18 averaged over the steps of the epoch, weighted by molecules.
        validation_loss: Eq. 18, summed over targets.
        target_losses: Eq. 17 averaged over validation molecules, per target.
        target_maes: mean absolute error on validation molecules, in each target's reporting unit.
        digest: `hpsearch.runs.record.epoch_digest` of these numbers and of all epochs before; empty
            if unsigned.
    """

    epoch: int
    learning_rate: float
    seconds: float
    training_loss: float
    validation_loss: float
    target_losses: dict[str, float]
    target_maes: dict[str, float]
    digest: str = ""


@dataclass(frozen=True)
class Failure:
    """The end of a run without a result.

    Attributes:
        kind: one of

            - ``diverged``: the loss is not finite;
            - ``out_of_memory``;
            - ``exception``: any other error in the worker;
            - ``worker_lost``: the worker's process died;
            - ``hung``: no message within the time limit;
            - ``disk_full``: a checkpoint could not be written;
            - ``machine``: an error that every run would have there, such as no CUDA device, other
              molecules or a folder that cannot be written;
            - ``infeasible``: out of memory in spite of all attempts to use less.
        message: one line.
        traceback: the worker's traceback; empty for a divergence.
        epoch: epoch of the failure, if known.
        step: optimizer step of the failure, if known.
    """

    kind: FailureKind
    message: str
    traceback: str = ""
    epoch: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class Completion:
    """The result of a complete run.

    If the test set was not used, ``test_loss`` is ``None`` and the other test results are empty.

    Attributes:
        epochs: number of trained epochs.
        best_epoch: epoch with the lowest validation loss, whose weights are stored.
        best_validation_loss: that loss.
        test_loss: Eq. 18 on the test molecules with the weights of the best epoch.
        test_maes: mean absolute errors on them, per target in reporting units.
        test_residuals: prediction minus reference of every test molecule, per target in reporting
            units, in the order of the split.
        peak_memory_bytes: peak memory of the worker during the run; ``None`` if unknown. Memory
            that earlier runs in the same process did not return counts as well.
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
    """A worker has built the run's network and data, and has loaded its checkpoint if there is one.

    Attributes:
        key: key of the assignment.
        facts: the facts that are known before the next epoch.
        epochs: epochs trained earlier. They are sent again, because an earlier driver may have died
            before it stored them.
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
class Paused:
    """The run has paused, because its assignment ends before the run does; its worker is free.

    Attributes:
        key: key of the assignment.
        epoch: number of its last epoch.
    """

    key: str
    epoch: int


@dataclass(frozen=True)
class Finished:
    """The run has ended, with a result or a failure."""

    key: str
    outcome: Outcome


Report = Started | EpochEnded | Paused | Finished
"""A message from a worker to the driver."""


def to_json(report: Report) -> str:
    """The report as text for Ray; :func:`from_json` is the inverse."""
    values = _tagged(report)
    if isinstance(report, Finished):
        values["outcome"] = _tagged(report.outcome)
    return json.dumps(values)


def from_json(text: str) -> Report:
    """The report from the output of :func:`to_json`."""
    values = json.loads(text)
    kind, key = values["type"], values["key"]
    match kind:
        case "Started":
            facts = RunFacts(**values["facts"])
            facts = replace(facts, damaged=tuple(facts.damaged))
            return Started(key, facts, tuple(EpochMetrics(**epoch) for epoch in values["epochs"]))
        case "EpochEnded":
            return EpochEnded(key, EpochMetrics(**values["metrics"]))
        case "Paused":
            return Paused(key, values["epoch"])
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
    """A study or an ablation: it gives out assignments and stores their results.

    The executor calls its methods from one thread of the driver. After every end of a run it calls
    ``next`` again, so a failed run can be replaced.
    """

    def next(self) -> Assignment | None:
        """The next run to start, or ``None`` if there is none now."""

    @property
    def finished(self) -> bool:
        """Whether no run is left to start, now or later."""

    def started(self, key: str, facts: RunFacts) -> None:
        """A worker has built the run's network and data."""

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """An epoch has ended; it is reported again if it is repeated after a failure."""

    def paused(self, key: str, epoch: int) -> None:
        """The run has paused after ``epoch``; another assignment may continue it."""

    def retried(self, key: str, failure: Failure) -> None:
        """The run failed and will resume from its last checkpoint; ``started`` is called again."""

    def finish(self, key: str, outcome: Outcome) -> None:
        """The run has ended; calling this again has no effect."""
