"""Why trials have no result: failed, refused and given up, by reason."""

import re

import pandas as pd
import plotly.graph_objects as go

from hpsearch.pages import colours_of, study_of
from hpsearch.search.failures import shape
from hpsearch.store import StoreReader

TITLE = "Failures"
KIND = "study"

LONGEST = 60
"""Characters of a reason that are drawn."""

MOST = 6
"""Trials that a bar names."""


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """A bar per reason, numbers in it aside, the most frequent at the top."""
    study, failed = study_of(store, name), frame(store, name)
    if study is None or failed is None:
        return None
    labels = [
        label(kind, reason)
        for kind, reason in zip(failed["failure"], failed["failure_reason"], strict=True)
    ]
    found = failed.assign(label=labels).groupby("label")["number"].apply(list)
    found = found.loc[found.map(len).sort_values().index]
    drawn = go.Figure(
        go.Bar(
            x=found.map(len).tolist(),
            y=[short(label) for label in found.index],
            orientation="h",
            text=[told(numbers) for numbers in found],
            textposition="outside",
            cliponaxis=False,
            marker={"color": colours_of(["failed"])["failed"]},
            customdata=[", ".join(map(str, numbers[:12])) for numbers in found],
            hovertemplate="%{y}<br>trials %{customdata}<extra></extra>",
        )
    )
    drawn.update_layout(
        title=f"{study.name}: {len(failed)} of {len(study.trials())} trials have no result",
        xaxis={"title": "number of trials", "dtick": max(1, len(failed) // 8)},
        margin={"r": 160},
        height=max(260, 160 + 36 * len(found)),
        bargap=0.4,
    )
    return drawn


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """A row per trial without a result: its number, kind and reason."""
    study = study_of(store, name)
    if study is None:
        return None
    trials = study.trials()
    failed = trials[trials["state"] == "FAIL"][["number", "failure", "failure_reason", "epochs"]]
    if failed.empty:
        return None
    failed["failure"] = failed["failure"].fillna("unknown").astype(str)
    reasons = failed["failure_reason"].fillna("told without a reason")
    return failed.assign(failure_reason=reasons.astype(str))


def label(kind: str, reason: str) -> str:
    """What trials of one cause have in common: the limit's name, of those that were refused."""
    limit = re.search(r"\bmax_\w+", reason) if kind == "refused" else None
    return f"{kind}: {shape(reason)}" if limit is None else f"{kind}: beyond {limit[0]}"


def told(numbers: list[int]) -> str:
    """How many trials, and which."""
    which = ", ".join(map(str, numbers[:MOST])) + (", …" if len(numbers) > MOST else "")
    return f"{len(numbers)} (trial{'s' * (len(numbers) > 1)} {which})"


def short(label: str) -> str:
    """``label``, cut where it is long."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
