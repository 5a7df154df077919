"""The runs of an experiment as recorded so far, for `hpsearch status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mean
from typing import Any

import pandas as pd

from hpsearch.store.reader import StoreReader


@dataclass(frozen=True)
class RecordedRun:
    """A run and its recorded epochs.

    Attributes:
        key: unique within its experiment.
        configuration: the stored configuration.
        weights: number of trainable weights; ``None`` until a worker has built the network. The
            next three are ``None`` until then too.
        host: name of the machine.
        device: ``cpu`` or the GPU's name.
        zero_output_loss: validation loss of a network whose output is zero.
        epoch: number of the last epoch that ended; 0 if none has.
        loss: its validation loss; ``None`` if it is missing or not finite.
        seconds: seconds of each recorded epoch.
        silent_seconds: seconds since the last epoch ended, at most the mean length of an epoch.
    """

    key: str
    configuration: Mapping[str, Any]
    weights: int | None
    host: str | None
    device: str | None
    zero_output_loss: float | None
    epoch: int
    loss: float | None
    seconds: tuple[float, ...]
    silent_seconds: float

    @property
    def epochs(self) -> int:
        """The most epochs that the run may train."""
        return int(self.configuration["training"]["epochs"])


def recorded_runs(store: StoreReader, experiment_id: int) -> dict[str, RecordedRun]:
    """Return the runs of an experiment by their keys."""
    epochs = {str(key): rows for key, rows in store.epochs(experiment_id).groupby("key")}
    now = datetime.now(UTC).replace(tzinfo=None)
    found = {}
    for row in store.runs(experiment_id).to_dict("records"):
        known = {
            name: None if pd.isna(value) else value
            for name, value in row.items()
            if name in ("weights", "host", "device", "zero_output_loss", "started_at")
        }
        found[row["key"]] = _recorded(row, known, epochs.get(row["key"]), now)
    return found


def _recorded(
    row: Mapping[Any, Any], known: Mapping[Any, Any], epochs: pd.DataFrame | None, now: datetime
) -> RecordedRun:
    began, last, loss = known["started_at"], 0, None
    seconds: tuple[float, ...] = ()
    if epochs is not None:
        latest = epochs.iloc[-1]
        last, began = int(latest["epoch"]), latest["created_at"]
        loss = None if pd.isna(latest["validation_loss"]) else float(latest["validation_loss"])
        seconds = tuple(float(value) for value in epochs["seconds"].dropna())
    silent = 0.0 if began is None else max((now - began).total_seconds(), 0.0)
    weights, zero = known["weights"], known["zero_output_loss"]
    return RecordedRun(
        key=row["key"],
        configuration=row["configuration"],
        weights=None if weights is None else int(weights),
        host=known["host"],
        device=known["device"],
        zero_output_loss=None if zero is None else float(zero),
        epoch=last,
        loss=loss,
        seconds=seconds,
        # Limited, because the clocks of two machines may differ, and because the driver may be
        # waiting for its database.
        silent_seconds=min(silent, mean(seconds)) if seconds else 0.0,
    )
