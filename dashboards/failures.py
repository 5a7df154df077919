"""Why trials have no result: failed, refused and given up, by reason."""

import plotly.graph_objects as go

from hpsearch.pages import study_of
from hpsearch.store import Store
from hpsearch.study.failures import shape

TITLE = "Failures"
KIND = "study"

LONGEST = 90
"""Characters of a reason that are drawn."""


def figure(store: Store, name: str | None = None) -> go.Figure | None:
    """A bar per reason, numbers in it aside, the most frequent at the top."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = study.trials()
    failed = trials[trials["state"] == "FAIL"]
    if failed.empty:
        return None
    kinds = failed["failure"].fillna("unknown").astype(str)
    reasons = failed["failure_reason"].fillna("told without a reason").astype(str)
    labels = [f"{kind}: {shape(reason)}" for kind, reason in zip(kinds, reasons, strict=True)]
    found = failed.assign(label=labels).groupby("label")["number"].apply(list)
    found = found.loc[found.map(len).sort_values().index]
    drawn = go.Figure(
        go.Bar(
            x=found.map(len).tolist(),
            y=[short(label) for label in found.index],
            orientation="h",
            text=[f"{len(numbers)}" for numbers in found],
            customdata=[", ".join(map(str, numbers[:12])) for numbers in found],
            hovertemplate="%{y}<br>trials %{customdata}<extra></extra>",
        )
    )
    drawn.update_layout(
        title=f"{study.name}: {len(failed)} trials without a result, of {len(trials)}",
        xaxis={"title": "trials"},
        yaxis={"automargin": True},
    )
    return drawn


def short(label: str) -> str:
    """``label``, cut where it is long."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
