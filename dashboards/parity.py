"""Predictions against references for the test molecules of an ablation, one panel per target."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.ablation.plan import CellKey
from hpsearch.config.run import DataConfig, fingerprint
from hpsearch.config.targets import Target, Targets
from hpsearch.data import own
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.data.statistics import target_values, training_references
from hpsearch.pages import (
    NEUTRAL,
    below,
    colours_of,
    drawn_targets,
    evenly,
    panel_title,
    panels,
    plain_text,
    symbols_of,
)
from hpsearch.report.text import unit_symbol
from hpsearch.results.tables import arms_of
from hpsearch.store import StoreReader
from hpsearch.system.errors import InputError

TITLE = "Parity"
KIND = "ablation"

COLUMNS = 3
PANEL_HEIGHT = 300
MOST_MOLECULES = 2_000
"""Most molecules drawn per run, to keep the page fast."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw prediction against reference for the first repeat of every arm, in the reporting unit.

    Atomic references are subtracted from energies, as in training. In total energies, the part due
    to the composition would hide every error. A large test set is thinned out evenly by index.

    Raises:
        InputError: this machine's molecules or the split are not those of a run.
    """
    predictions, note = all_predictions(store, name)
    if predictions is None:
        return None
    ablation = store.find(name, "ablation")
    drawn = draw(predictions, ablation.targets)
    what = f"{ablation.name}: predictions for test molecules{note}"
    if (predictions["of_molecules"] > MOST_MOLECULES).any():
        what += f"; at most {MOST_MOLECULES:,} per network are drawn, evenly by index"
    drawn.update_layout(title=what)
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per run and drawn test molecule: reference and prediction.

    Molecules whose target is unknown are left out.

    Raises:
        InputError: this machine's molecules or the split are not those of a run.
    """
    return all_predictions(store, name)[0]


def all_predictions(store: StoreReader, name: str | None) -> tuple[pd.DataFrame | None, str]:
    """Return the rows of `frame`, and which targets are left out, for the title."""
    experiment = store.experiment("ablation", name)
    if experiment is None:
        return None, ""
    runs = first_repeats(store, experiment.id)
    drawn, note = drawn_targets(experiment.targets, runs["target"])
    runs = runs[runs["target"].isin(drawn)]
    if runs.empty:
        return None, ""
    molecules = own.load(experiment.data)
    splits: dict[str, Split] = {}
    parts = [
        of_run(run, experiment.targets[run["target"]], molecules, splits)
        for _, run in runs.iterrows()
    ]
    return pd.concat(parts, ignore_index=True), note


def of_run(
    run: pd.Series, target: Target, molecules: Molecules, splits: dict[str, Split]
) -> pd.DataFrame:
    """Return the rows of one run."""
    split = split_of(run, molecules, splits)
    test = split.test
    known = np.flatnonzero(~np.isnan(run["residuals"]))
    chosen = known[evenly(len(known), MOST_MOLECULES)]
    references = values(molecules, test[chosen], split.train, target)
    return pd.DataFrame(
        {
            "key": run["key"],
            "variant": run["variant"],
            "target": run["target"],
            "unit": target.unit,
            "molecule": molecules.identifiers[test[chosen]],
            "reference": references,
            "prediction": references + run["residuals"][chosen],
            "of_molecules": len(known),
        }
    )


def first_repeats(store: StoreReader, experiment_id: int) -> pd.DataFrame:
    """Return for each arm and target the run of the lowest repeat with recorded residuals."""
    residuals = store.test_residuals(experiment_id)[["key", "target", "residuals"]]
    runs = store.runs(experiment_id)[["key", "configuration", "data_hash", "split_hash"]]
    merged = residuals.merge(runs, on="key")
    keys = [CellKey.parse(key) for key in merged["key"]]
    merged = merged.assign(variant=[k.variant for k in keys], repeat=[k.repeat for k in keys])
    first = merged.sort_values("repeat", kind="stable").drop_duplicates(["variant", "target"])
    return first.sort_index()


def draw(predictions: pd.DataFrame, targets: Targets) -> go.Figure:
    """Draw a panel per target, with a colour and a legend entry per arm."""
    names, _ = drawn_targets(targets, predictions["target"])
    symbols = symbols_of(targets)
    rows, columns, spacing = panels(len(names), COLUMNS, PANEL_HEIGHT)
    titles = [panel_title(quantity(targets[name], symbols[name]), columns) for name in names]
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    arms = [arm for arm in arms_of(predictions) if arm in set(predictions["variant"])]
    colours = colours_of(arms)
    in_legend: set[str] = set()
    for index, name in enumerate(names):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        of_target = predictions[predictions["target"] == name]
        for arm in arms:
            run = of_target[of_target["variant"] == arm]
            if run.empty:
                continue
            drawn.add_trace(
                go.Scattergl(
                    x=run["reference"].to_numpy(),
                    y=run["prediction"].to_numpy(),
                    customdata=run["molecule"].to_numpy(),
                    mode="markers",
                    marker={"color": colours[arm], "size": 4, "opacity": 0.6},
                    name=arm,
                    legendgroup=arm,
                    showlegend=arm not in in_legend,
                    hovertemplate=plain_text(run["key"].iloc[0]) + "<br>molecule %{customdata}<br>"
                    "reference %{x:.5g}, prediction %{y:.5g}",
                ),
                **place,
            )
            in_legend.add(arm)
        references = of_target["reference"]
        add_diagonal(drawn, float(references.min()), float(references.max()), place)
        unit = unit_symbol(targets[name].unit)
        drawn.update_xaxes(title_text=f"reference ({unit})", **place)
        drawn.update_yaxes(title_text=f"prediction ({unit})", **place)
    drawn.update_layout(below(rows, PANEL_HEIGHT))
    drawn.update_layout(legend={"itemsizing": "constant"})
    return drawn


def quantity(target: Target, symbol: str) -> str:
    """Return the target's symbol, with a note if atomic references are subtracted."""
    subtracted = target.fitted or any(target.references.values())
    return f"{symbol} minus atomic references" if subtracted else symbol


def split_of(run: pd.Series, molecules: Molecules, splits: dict[str, Split]) -> Split:
    """Return the split of a run, whose test molecules are in the order of its residuals.

    Raises:
        InputError: the molecules, the split or their number are not the run's.
    """
    if run["data_hash"] != molecules.content_hash:
        raise InputError(
            f"the molecules must be those of the run {run['key']} (hash "
            f"{str(run['data_hash'])[:12]}), but this machine has others (hash "
            f"{molecules.content_hash[:12]}); draw the page where the ablation ran"
        )
    config = DataConfig.model_validate(run["configuration"]["data"])
    made = fingerprint(config.model_dump(mode="json"))
    if made not in splits:
        splits[made] = make_split(molecules, config)
    if splits[made].hash != run["split_hash"]:
        raise InputError(
            f"the split must be that of the run {run['key']} (hash "
            f"{str(run['split_hash'])[:12]}), but its configuration makes another one here (hash "
            f"{splits[made].hash[:12]}); restore the split file"
        )
    split = splits[made]
    if len(split.test) != len(run["residuals"]):
        raise InputError(
            f"the run {run['key']} must have a residual for each of {len(split.test):,} test "
            f"molecules, got {len(run['residuals']):,}"
        )
    return split


def values(
    molecules: Molecules, rows: np.ndarray[Any, Any], train: np.ndarray[Any, Any], of: Target
) -> np.ndarray[Any, Any]:
    """Return [M] reference values minus atomic references (Eq. 14), in the reporting unit.

    The atomic references are given, or fitted to the molecules ``train``, as in the training.
    """
    atomic = training_references(molecules, train, [of.name])
    native = target_values(molecules, rows, [of.name]) - molecules.element_counts(rows) @ atomic.T
    return native[:, 0] * of.reporting_factor


def add_diagonal(drawn: go.Figure, low: float, high: float, place: dict[str, int]) -> None:
    """Draw the line on which a prediction is exact."""
    drawn.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": NEUTRAL, "width": 1, "dash": "dash"},
            name="y = x",
            showlegend=False,
            hoverinfo="skip",
        ),
        **place,
    )
