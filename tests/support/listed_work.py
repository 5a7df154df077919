"""A Work over a list of tiny runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpsearch.config.run import DataConfig, TrainingConfig, TrialConfig
from hpsearch.runs.messages import Assignment, Completion, EpochMetrics, Failure, Outcome, RunFacts
from support.networks import tiny_network

SECRET = "correct-horse-battery-staple"


def tiny(
    epochs: int = 2,
    *,
    train_size: int = 16,
    learning_rate: float = 1e-3,
    embedding_size: int = 4,
) -> TrialConfig:
    return TrialConfig(
        targets=("mu",),
        network=tiny_network(embedding_size=embedding_size),
        training=TrainingConfig(
            batch_size=4,
            learning_rate=learning_rate,
            epochs=epochs,
            early_stopping_patience=epochs,
        ),
        data=DataConfig(train_size=train_size, validation_size=4, test_size=4),
    )


@dataclass
class Listed:
    """A Work over a list, which notes what it is told."""

    assignments: list[Assignment]
    secret: str = SECRET
    facts: dict[str, RunFacts] = field(default_factory=dict)
    epochs: dict[str, list[EpochMetrics]] = field(default_factory=dict)
    retries: dict[str, list[Failure]] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    pauses: dict[str, list[int]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    most_running: int = 0

    def next(self) -> Assignment | None:
        if not self.assignments:
            return None
        assignment = self.assignments.pop(0)
        self.running.add(assignment.key)
        self.most_running = max(self.most_running, len(self.running))
        return assignment

    @property
    def finished(self) -> bool:
        return not self.assignments

    def started(self, key: str, facts: RunFacts) -> None:
        self.facts[key] = facts

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        self.epochs.setdefault(key, []).append(metrics)

    def paused(self, key: str, epoch: int) -> None:
        self.running.discard(key)
        self.pauses.setdefault(key, []).append(epoch)

    def retried(self, key: str, failure: Failure) -> None:
        self.retries.setdefault(key, []).append(failure)

    def finish(self, key: str, outcome: Outcome) -> None:
        self.running.discard(key)
        self.outcomes.setdefault(key, []).append(outcome)

    def __reduce__(self) -> Any:
        raise AssertionError("the Work must not be pickled or copied")

    def completion(self, key: str) -> Completion:
        [outcome] = self.outcomes[key]
        assert isinstance(outcome, Completion), outcome
        return outcome

    def failure(self, key: str) -> Failure:
        [outcome] = self.outcomes[key]
        assert isinstance(outcome, Failure), outcome
        return outcome


def listed(directory: Path, **configs: TrialConfig) -> Listed:
    return Listed(
        [Assignment(key, config, str(directory / key)) for key, config in configs.items()]
    )
