"""Launches of a study whose trials are trained by the test itself, with losses by a formula."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch.config.space import SearchSpace
from hpsearch.runs.messages import Assignment, Completion
from hpsearch.search.launch import launch_study
from hpsearch.search.work import Search
from hpsearch.store import Store
from support.commands import PLAIN_QUICK
from support.store_examples import FACTS, metrics

BOTH_DATABASES = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
"""For what depends on the database: transactions, rows that others change, frames.

The rest of a search is decided in Python from those rows, and is tried on SQLite alone.
"""

QUICK = SearchSpace.parse(PLAIN_QUICK, "quick.yaml")


def space(trials: int = 3, **changes: Any) -> SearchSpace:
    return QUICK.with_overrides(trials=trials, **{"sampler": "random", **changes})


def loss_of(assignment: Assignment, epoch: int) -> float:
    """Falls, then rises: the lowest is not the last."""
    return 10.0 + int(assignment.key) % 7 + abs(epoch - 2)


def train(search: Search, assignment: Assignment, epochs: int = 3, first: int = 1) -> None:
    search.started(assignment.key, FACTS)
    for epoch in range(first, epochs + 1):
        targets = dict.fromkeys(assignment.config.targets, 1.0)
        search.epoch(
            assignment.key,
            metrics(epoch, loss_of(assignment, epoch), target_losses=targets, target_maes=targets),
        )


def complete(search: Search, assignment: Assignment) -> None:
    train(search, assignment)
    search.finish(assignment.key, Completion(3, 2, loss_of(assignment, 2)))


@dataclass
class Launches:
    """Launches of one study, each as a process of its own would make it."""

    store: Store
    root: Path

    def __call__(
        self, searched: SearchSpace | None = None, name: str | None = None, **options: Any
    ) -> Search:
        return launch_study(self.store, searched or space(), name, self.root, **options)

    def run_out(self, search: Search) -> None:
        while not search.finished:
            assignment = search.next()
            assert assignment is not None, "nothing to start, and not finished"
            complete(search, assignment)

    def states(self, name: str = "quick") -> Counter[str]:
        return Counter(row.state for row in self.store.trial_states(name) or [])

    def trial(self, number: int, name: str = "quick") -> optuna.trial.FrozenTrial:
        study = optuna.load_study(study_name=name, storage=self.store.optuna_reader)
        return study.get_trials()[number]
