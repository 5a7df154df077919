"""What :func:`hpsearch.executor.run` tells its caller while runs go on."""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.executor.attempts import Attempt
from hpsearch.runs.messages import EpochMetrics, Failure, Outcome, RunFacts


@dataclass(frozen=True)
class Started:
    """A worker has built the run's network and data, or continues from its checkpoint."""

    key: str
    facts: RunFacts


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of the run has ended."""

    key: str
    metrics: EpochMetrics


@dataclass(frozen=True)
class Retried:
    """The run failed and is tried again, from its last checkpoint."""

    key: str
    failure: Failure
    attempt: Attempt


@dataclass(frozen=True)
class Finished:
    """The run has ended, well or not."""

    key: str
    outcome: Outcome


Event = Started | EpochEnded | Retried | Finished
"""What a caller may print while the runs go on; the Work has been told already."""
