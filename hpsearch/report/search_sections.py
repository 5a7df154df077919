"""The report's sections on a search: the winner, the trials and their parameters."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpsearch.config.run import DataConfig
from hpsearch.report.render import Section
from hpsearch.report.text import compared_loss, number, settings, value
from hpsearch.results.tables import TRIAL_COLUMNS, search_table
from hpsearch.search.study import Study
from hpsearch.system.errors import HpsearchError


def search_sections(study: Study) -> list[Section]:
    """Return the winner, the trials, and the parameters of each trial."""
    table, accuracy = search_table(study), study.quote_accuracy()
    counted = (
        f"{study.counts()}. A trial's loss is its lowest validation loss (Eq. 18), summed over the "
        "targets."
    )
    parameters = [name for name in table.columns if name not in TRIAL_COLUMNS]
    return [
        _winner(study),
        Section(
            f"The trials of {study.name}",
            (counted,) if accuracy is None else (counted, f"{str(accuracy).capitalize()}."),
            ("Trial", "State", "Loss", "Epochs", "Weights", "Seconds per epoch", "Remark"),
            tuple(_trial(trial, row) for trial, row in table.iterrows()),
        ),
        Section(
            "The parameters of the trials",
            (),
            ("Trial", *(name.replace("_", " ") for name in parameters)),
            tuple(
                (str(trial), *(value(row[name]) for name in parameters))
                for trial, row in table.iterrows()
            ),
        ),
    ]


def _trial(trial: object, row: pd.Series[Any]) -> tuple[str, ...]:
    return (
        str(trial),
        row["state"],
        number(row["value"]),
        value(row["epochs"]),
        value(row["weights"]),
        number(row["seconds_per_epoch"]),
        _remark(row),
    )


def _remark(row: pd.Series[Any]) -> str:
    """Return where a known configuration comes from, and why the trial failed."""
    known = [] if pd.isna(row["origin"]) else [f"starts from {row['origin']}"]
    reason = [] if pd.isna(row["reason"]) else [row["reason"]]
    return "; ".join([*known, *reason]) or value(None)


def _winner(study: Study) -> Section:
    title = f"The winner of {study.name}"
    try:
        winner = study.winner()
    except HpsearchError as error:
        return Section(title, (f"{error}.",))
    origin = winner.provenance
    assert origin is not None
    rows = settings(winner.config.to_dict())
    loss = compared_loss(origin.validation_loss, origin.zero_output_loss)
    remark = (
        f"Trial {origin.trial} has the lowest validation loss: {loss}. The loss is summed over "
        f"{len(winner.config.targets)} targets. The network was trained on "
        f"{_training_molecules(winner.config.data)} molecules. Predicting zero, that is the mean, "
        f"has the loss {number(origin.zero_output_loss)}."
    )
    return Section(title, (remark,), ("Setting", "Value"), rows)


def _training_molecules(data: DataConfig) -> str:
    """Return the number of training molecules, or their part of all, in words."""
    part = None if data.fractions is None else data.fractions.train
    return f"{data.train_size:,}" if part is None else f"{100 * part:g} % of the"
