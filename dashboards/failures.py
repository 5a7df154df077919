"""Reasons why trials have no result: failed, refused or given up."""

import re

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import colours_of, study_of
from hpsearch.search.failures import shape
from hpsearch.store import StoreReader

TITLE = "Failures"
KIND = "study"

LONGEST = 60
"""Most characters shown of a reason."""

MOST = 6
"""Most trials that a bar lists by number."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a bar per reason, the most frequent at the top; numbers in the reasons are ignored."""
    study, failed = study_of(store, name), frame(store, name)
    if study is None or failed is None:
        return None
    every = len(study.trials(parameters=False))
    labels = [
        label(kind, reason)
        for kind, reason in zip(failed["failure"], failed["failure_reason"], strict=True)
    ]
    by_reason = failed.assign(label=labels).groupby("label")["number"].apply(list)
    by_reason = by_reason.loc[by_reason.map(len).sort_values().index]
    drawn = go.Figure(
        go.Bar(
            x=by_reason.map(len).tolist(),
            y=[short(label) for label in by_reason.index],
            orientation="h",
            text=[listed(numbers) for numbers in by_reason],
            textposition="outside",
            cliponaxis=False,
            marker={"color": colours_of(["failed"])["failed"]},
            customdata=[", ".join(map(str, numbers[:12])) for numbers in by_reason],
            hovertemplate="%{y}<br>trials %{customdata}<extra></extra>",
        )
    )
    drawn.update_layout(
        title=f"{study.name}: {len(failed)} of {every} trials have no result",
        xaxis={"title": "number of trials", "dtick": max(1, len(failed) // 8)},
        margin={"r": 160},
        height=max(260, 160 + 36 * len(by_reason)),
        bargap=0.4,
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per trial without a result: its number, kind and reason."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = study.trials(parameters=False)
    failed = trials[trials["state"] == "FAIL"][["number", "failure", "failure_reason", "epochs"]]
    if failed.empty:
        return None
    failed["failure"] = failed["failure"].fillna("unknown").astype(str)
    reasons = failed["failure_reason"].fillna("ended without a reason")
    return failed.assign(failure_reason=reasons.astype(str))


def label(kind: str, reason: str) -> str:
    """Return a text that is equal for trials with the same cause; for refused ones, the limit."""
    limit = re.search(r"\bmax_\w+", reason) if kind == "refused" else None
    return f"{kind}: {shape(reason)}" if limit is None else f"{kind}: above {limit[0]}"


def listed(numbers: list[int]) -> str:
    """Return how many trials there are, and their numbers."""
    which = ", ".join(map(str, numbers[:MOST])) + (", …" if len(numbers) > MOST else "")
    return f"{len(numbers)} (trial{'s' * (len(numbers) > 1)} {which})"


def short(label: str) -> str:
    """Return ``label``, cut if it is too long."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
