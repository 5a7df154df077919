"""Rows that the store hands out, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from hpsearch.config.run import TrialConfig

Kind = Literal["study", "ablation"]
KINDS: tuple[Kind, ...] = ("study", "ablation")


@dataclass(frozen=True)
class Experiment:
    """A study or an ablation.

    Attributes:
        id: primary key; what runs are recorded under.
        kind: ``study`` or ``ablation``.
        name: unique within its kind.
        identity: random, made with the experiment; names its folder.
        provenance: what it was made from: space or export, hashes, versions.
        created_at: when it was first launched (UTC).
        launched_at: when it was last launched (UTC).
    """

    id: int
    kind: Kind
    name: str
    identity: str
    provenance: dict[str, Any]
    created_at: datetime
    launched_at: datetime


@dataclass(frozen=True)
class StoredRun:
    """One network as recorded.

    Attributes:
        id: primary key; what epochs and results are recorded under.
        key: unique within its experiment.
        config: the run's configuration.
    """

    id: int
    key: str
    config: TrialConfig


@dataclass(frozen=True)
class Curve:
    """What a run's recorded epochs say.

    Attributes:
        epochs: number of epochs recorded.
        best_epoch: the first epoch of the lowest validation loss; ``None`` if none is finite.
        best_validation_loss: that loss.
        seconds_per_epoch: mean over the recorded epochs.
    """

    epochs: int
    best_epoch: int | None
    best_validation_loss: float | None
    seconds_per_epoch: float | None


@dataclass(frozen=True)
class TrialState:
    """One row of a study in Optuna's table, as it stands now.

    Attributes:
        number: of the trial, from 0.
        trial_id: Optuna's key.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
    """

    number: int
    trial_id: int
    state: str
