"""Which targets the best trials of a search have learned: their losses beside a zero output's."""

import plotly.graph_objects as go

from hpsearch.pages import study_of
from hpsearch.store import Store
from hpsearch.study import Study
from hpsearch.targets import TARGET_NAMES, target

TITLE = "Losses by target"
KIND = "study"

BEST_TRIALS = 5


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """Normalised loss (Eq. 17) per target of the best trials, each at its best epoch."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = study.trials().dropna(subset=["value"]).sort_values("value").head(BEST_TRIALS)
    losses = store.target_errors(study.experiment_id)
    if trials.empty or losses.empty:
        return None
    drawn = go.Figure()
    for number in trials["number"]:
        run = losses[losses["key"] == str(number)]
        totals = run.groupby("epoch")["loss"].sum()
        if totals.empty:
            continue
        best = run[run["epoch"] == totals.idxmin()].set_index("target")["loss"]
        names = [name for name in TARGET_NAMES if name in best.index]
        drawn.add_trace(
            go.Bar(
                x=[target(name).symbol for name in names],
                y=[float(best[name]) for name in names],
                name=f"trial {number}",
            )
        )
    add_zero_output(drawn, store, study)
    drawn.update_layout(
        title=f"{study.name}: losses of the best trials by target",
        yaxis={"type": "log", "title": "normalised loss (Eq. 17)"},
        barmode="group",
    )
    return drawn


def add_zero_output(drawn: go.Figure, store: Store, study: Study) -> None:
    """A line at what a network scores that has learned nothing, averaged over the targets."""
    runs = store.runs(study.experiment_id).dropna(subset=["zero_output_loss"])
    if runs.empty:
        return
    first = runs.iloc[0]
    average = first["zero_output_loss"] / len(first["configuration"]["targets"])
    drawn.add_hline(
        y=average,
        line_dash="dash",
        annotation_text=f"zero output, average over targets: {average:.4g}",
    )
