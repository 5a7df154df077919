"""Predictions beside references: the test molecules of an ablation, one panel per target."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.config import DataConfig
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.data.statistics import atom_references, target_values
from hpsearch.errors import InputError
from hpsearch.pages import colours_of
from hpsearch.report.tables import arms_of
from hpsearch.store import Store
from hpsearch.targets import TARGET_NAMES, target

TITLE = "Parity"
KIND = "ablation"

COLUMNS = 2
PANEL_HEIGHT = 480
MOST_MOLECULES = 2_000
"""Drawn of a run; more would only make the page slow."""


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """The first repeat of every arm, prediction against reference in the reporting unit.

    Energies are less their atomic references, as they are trained: total energies would hide every
    error behind the composition. Of many test molecules some are drawn, evenly by index.

    Raises:
        InputError: this machine's molecules or the split are not those of a run.
    """
    name = name or store.latest("ablation")
    experiment = None if name is None else store.experiment("ablation", name)
    if experiment is None:
        return None
    runs = first_repeats(store, experiment.id)
    if runs.empty:
        return None
    molecules = qm9.load()
    drawn, thinned = draw(runs, molecules)
    what = f"{name}: predictions for test molecules"
    if thinned:
        what += f"; at most {MOST_MOLECULES:,} of each network's are drawn, evenly by index"
    drawn.update_layout(title=what)
    return drawn


def first_repeats(store: Store, experiment_id: int) -> pd.DataFrame:
    """Of each arm and target the run of the lowest repeat whose residuals are recorded."""
    residuals = store.test_residuals(experiment_id)[["key", "target", "residuals"]]
    runs = store.runs(experiment_id)[["key", "configuration", "data_hash", "split_hash"]]
    found = residuals.merge(runs, on="key")
    parts = found["key"].str.split("/", expand=True).reindex(columns=range(3))
    found["variant"], found["repeat"] = parts[0], parts[2].astype(int)
    first = found.sort_values("repeat", kind="stable").drop_duplicates(["variant", "target"])
    return first.sort_index()


def draw(runs: pd.DataFrame, molecules: Molecules) -> tuple[go.Figure, bool]:
    """A panel per target, and whether molecules were left out."""
    names = [name for name in TARGET_NAMES if name in set(runs["target"])]
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    titles = [quantity(name) for name in names]
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=titles)
    arms = [arm for arm in arms_of(runs) if arm in set(runs["variant"])]
    colours = colours_of(arms)
    in_legend = set()
    splits: dict[DataConfig, Split] = {}
    thinned = False
    for index, name in enumerate(names):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        ends: list[float] = []
        of_target = runs[runs["target"] == name].set_index("variant")
        for arm in arms:
            if arm not in of_target.index:
                continue
            run = of_target.loc[arm]
            test = test_rows(run, molecules, splits)
            chosen = evenly(len(test))
            thinned |= len(chosen) < len(test)
            references = values(molecules, test[chosen], name)
            ends += [float(references.min()), float(references.max())]
            drawn.add_trace(
                go.Scattergl(
                    x=references,
                    y=references + run["residuals"][chosen],
                    customdata=molecules.identifiers[test[chosen]],
                    mode="markers",
                    marker={"color": colours[arm], "size": 4, "opacity": 0.6},
                    name=arm,
                    legendgroup=arm,
                    showlegend=arm not in in_legend,
                    hovertemplate=f"{run['key']}<br>molecule %{{customdata}}<br>"
                    "reference %{x:.5g}, prediction %{y:.5g}",
                ),
                **place,
            )
            in_legend.add(arm)
        add_diagonal(drawn, min(ends), max(ends), place)
        drawn.update_xaxes(title_text=f"reference ({target(name).unit})", **place)
        drawn.update_yaxes(title_text=f"prediction ({target(name).unit})", **place)
    drawn.update_layout(height=max(1, rows) * PANEL_HEIGHT)
    return drawn, thinned


def quantity(name: str) -> str:
    """The target's symbol, and that its atomic references are subtracted where it has some."""
    of = target(name)
    return f"{of.symbol} less atomic references" if any(of.references) else of.symbol


def test_rows(
    run: pd.Series, molecules: Molecules, splits: dict[DataConfig, Split]
) -> np.ndarray[Any, Any]:
    """Rows of a run's test molecules in the order of its residuals; each split is made once.

    Raises:
        InputError: the molecules, the split or their number are not the run's.
    """
    if run["data_hash"] != molecules.content_hash:
        raise InputError(
            f"the molecules must be those of the run {run['key']}, whose hash is "
            f"{str(run['data_hash'])[:12]}; this machine's have {molecules.content_hash[:12]}; "
            "draw the page where the ablation ran"
        )
    config = DataConfig.model_validate(run["configuration"]["data"])
    if config not in splits:
        splits[config] = make_split(molecules, config)
    if splits[config].hash != run["split_hash"]:
        raise InputError(
            f"the split must be that of the run {run['key']}, whose hash is "
            f"{str(run['split_hash'])[:12]}; its configuration makes {splits[config].hash[:12]} "
            "here; restore the split file"
        )
    test = splits[config].test
    if len(test) != len(run["residuals"]):
        raise InputError(
            f"the run {run['key']} must have a residual for each of {len(test):,} test molecules, "
            f"got {len(run['residuals']):,}"
        )
    return test


def evenly(count: int) -> np.ndarray[Any, Any]:
    """At most ``MOST_MOLECULES`` indices below ``count``, evenly apart, first and last included."""
    return np.linspace(0, count - 1, min(count, MOST_MOLECULES)).astype(np.int64)


def values(molecules: Molecules, rows: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """[M] reference values less atomic references (Eq. 14), in the reporting unit."""
    native = target_values(molecules, rows, [name]) - atom_references(molecules, rows, [name])
    return native[:, 0] * target(name).reporting_factor


def add_diagonal(drawn: go.Figure, low: float, high: float, place: dict[str, int]) -> None:
    """The line on which a prediction is right."""
    drawn.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": "black", "width": 1, "dash": "dash"},
            name="y = x",
            showlegend=False,
            hoverinfo="skip",
        ),
        **place,
    )
