"""The report's sections on a search: the winner, the trials and their parameters."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpsearch.errors import HpsearchError
from hpsearch.report.render import Section
from hpsearch.report.text import number, settings, value
from hpsearch.results.tables import TRIAL_COLUMNS, search_table
from hpsearch.search.study import Study


def search_sections(study: Study) -> list[Section]:
    """Return the winner, the trials, and the parameters of each trial."""
    table, accuracy = search_table(study), study.quote_accuracy()
    counted = f"{study.counts()}. A trial's loss is its lowest validation loss (Eq. 18)."
    parameters = [name for name in table.columns if name not in TRIAL_COLUMNS]
    return [
        _winner(study),
        Section(
            f"The trials of {study.name}",
            (counted,) if accuracy is None else (counted, f"{str(accuracy).capitalize()}."),
            ("Trial", "State", "Loss", "Epochs", "Weights", "Seconds per epoch", "Reason"),
            tuple(_trial(trial, row) for trial, row in table.iterrows()),
        ),
        Section(
            "What the trials drew",
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
        value(row["reason"]),
    )


def _winner(study: Study) -> Section:
    title = f"The winner of {study.name}"
    try:
        winner = study.winner()
    except HpsearchError as error:
        return Section(title, (f"{error}.",))
    origin = winner.provenance
    assert origin is not None
    rows = settings(winner.config.to_dict())
    remark = (
        f"Trial {origin.trial}, by its validation loss of {number(origin.validation_loss)} (a "
        f"network whose output is zero has {number(origin.zero_output_loss)}), summed over "
        f"{len(winner.config.targets)} targets, trained on "
        f"{winner.config.data.train_size:,} molecules."
    )
    return Section(title, (remark,), ("Setting", "Value"), rows)
