"""The trials at their rungs; for a search without rungs, what early stopping would have saved."""

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from hpsearch.config.rungs import Rungs
from hpsearch.pages import NEUTRAL, PALETTE, log_axis, study_of, thinned, thinned_note
from hpsearch.pages.replay import plan_section, plans_figure
from hpsearch.report.render import Section
from hpsearch.results.curves import RecordedCurve, recorded_curves
from hpsearch.results.replay import Summary, summarise, usual_plans
from hpsearch.search.rungs import Ladder
from hpsearch.search.study import Study
from hpsearch.store import Decision, StoreReader
from hpsearch.system.errors import InputError

TITLE = "Early stopping"
KIND = "study"

MOST = 300
"""Most trials drawn, to keep the page fast."""

MOST_DECISIONS = 500
"""Most decisions in the table, the last ones."""

REPLAYS, MOST_REPLAYED = 100, 100
"""Number of replays of each plan, and the most trials in each. `hpsearch replay` plays more."""

COLOURS = {
    "complete": PALETTE[2],
    "goes on": PALETTE[0],
    "paused": PALETTE[1],
    "stopped": NEUTRAL,
    "failed": PALETTE[3],
}

WORDS = {
    "pause": "paused",
    "promotion": "goes on",
    "pruned": "stopped",
    "complete": "complete",
    "failed": "failed",
}


def figure(store: StoreReader, name: str | None = None) -> go.Figure | None:
    """Draw a line per trial from rung to rung, or the plans of a replay."""
    study = study_of(store, name)
    if study is None:
        return None
    if study.provenance.get("rungs") is not None:
        rows = _losses_at_rungs(store, study)
        return None if rows is None else _rungs(study, rows)
    found = _replayed(store, study)
    if not found:
        return None
    title = f"{study.name}: what early stopping would have saved, and lost"
    return plans_figure(found).update_layout(title=title)


def frame(store: StoreReader, name: str | None = None) -> pd.DataFrame | None:
    """Return a row per trial and rung, or a row per replayed plan."""
    study = study_of(store, name)
    if study is None:
        return None
    if study.provenance.get("rungs") is not None:
        return _losses_at_rungs(store, study)
    found = _replayed(store, study)
    return pd.DataFrame([summary.to_dict() for summary in found]) if found else None


def tables(store: StoreReader, name: str | None = None) -> list[Section]:
    """Return the decisions in their order, or the plans of a replay."""
    study = study_of(store, name)
    if study is None:
        return []
    if study.provenance.get("rungs") is not None:
        return [_decisions(store, study)]
    found = _replayed(store, study)
    remark = (
        f"{REPLAYS} replays of each plan with one worker, on trials drawn again from this search. "
        "Nothing was trained. `hpsearch replay` plays your own plans and more workers."
    )
    return [plan_section(found, remark)] if found else []


# --- A search with rungs --------------------------------------------------------------------------


def _losses_at_rungs(store: StoreReader, study: Study) -> pd.DataFrame | None:
    decisions = store.decisions(study.experiment_id)
    if not decisions:
        return None
    stands = {decision.key: WORDS[decision.kind] for decision in decisions}
    points = {
        (int(decision.key), decision.epoch): decision.loss
        for decision in decisions
        if decision.loss is not None
    }
    rows = pd.DataFrame(
        [
            {"trial": trial, "epoch": epoch, "loss": loss, "stands": stands[str(trial)]}
            for (trial, epoch), loss in points.items()
        ]
    )
    return None if rows.empty else rows.sort_values(["trial", "epoch"], ignore_index=True)


def _rungs(study: Study, rows: pd.DataFrame) -> go.Figure:
    best = rows.groupby("trial")["loss"].min().sort_values()
    shown = thinned(best.to_frame(), MOST).index
    drawn, in_legend = go.Figure(), set[str]()
    # The complete ones last, above the others.
    for stands in reversed(COLOURS):
        those = rows[(rows["stands"] == stands) & rows["trial"].isin(shown)]
        for trial, points in those.groupby("trial"):
            drawn.add_trace(
                go.Scatter(
                    x=points["epoch"].tolist(),
                    y=points["loss"].tolist(),
                    mode="lines+markers",
                    marker={"size": 7},
                    line={"color": COLOURS[stands], "width": 1.5},
                    opacity=0.5 if stands == "stopped" else 1.0,
                    name=stands,
                    legendgroup=stands,
                    showlegend=stands not in in_legend,
                    hovertemplate=f"trial {trial}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
                )
            )
            in_legend.add(stands)
    counts = rows.drop_duplicates("trial")["stands"].value_counts()
    words = ", ".join(f"{counts[stands]} {stands}" for stands in COLOURS if stands in counts)
    drawn.update_layout(
        title=f"{study.name}: lowest loss at each rung; {words}"
        + thinned_note(len(shown), len(best))
    )
    drawn.update_xaxes(**log_axis(rows["epoch"], "epoch"))
    drawn.update_yaxes(**log_axis(rows["loss"], "lowest validation loss so far (Eq. 18)"))
    return drawn


def _decisions(store: StoreReader, study: Study) -> Section:
    rungs = Rungs.model_validate(study.provenance["rungs"])
    decisions = store.decisions(study.experiment_id)
    rows = list(_decision_rows(decisions, rungs))
    return Section(
        "The decisions in their order",
        (
            f"A trial pauses after the epochs {', '.join(map(str, rungs.epochs))}. "
            f"One of {rungs.reduction} goes on."
            if rungs.epochs
            else f"One of {rungs.reduction} trials goes on at each rung.",
            "The place is that among the trials that had reached the rung by then. Losses that "
            f"differ by less than {100 * rungs.tolerance:g} % count as equal.",
            *(
                [f"The last {MOST_DECISIONS} of {len(decisions)} decisions."]
                if len(decisions) > MOST_DECISIONS
                else []
            ),
        ),
        ("Trial", "Decision", "Rung", "Epoch", "Lowest loss", "Place"),
        tuple(rows[-MOST_DECISIONS:]),
    )


def _decision_rows(decisions: list[Decision], rungs: Rungs) -> Iterator[tuple[str, ...]]:
    ladder = Ladder(rungs)
    for decision in decisions:
        place = "–"
        try:
            if decision.kind == "pause":
                ladder.apply(decision)
            if ladder.is_paused(decision.key):
                found = ladder.place(decision.key, last=False)
                place = f"{found.better + 1} of {found.trials}"
            if decision.kind != "pause":
                ladder.apply(decision)
        except (ValueError, LookupError):
            place = "?"  # damaged rows, which `hpsearch verify` names
        reached = decision.kind in ("pause", "promotion") or place != "–"
        rung = decision.rung + (decision.kind in ("pause", "promotion"))
        yield (
            decision.key,
            WORDS[decision.kind],
            str(rung) if reached else "–",
            str(decision.epoch),
            "–" if decision.loss is None else f"{decision.loss:,.4g}",
            place,
        )


# --- A search without rungs -----------------------------------------------------------------------


def _replayed(store: StoreReader, study: Study) -> list[Summary]:
    """Return what the usual plans would have done; nothing if the study cannot be replayed."""

    def played() -> list[Summary]:
        try:
            curves = recorded_curves(store, study.name)
        except InputError:
            return []
        draws = _evenly(curves.draws)
        plans = usual_plans(curves.epochs, len(draws), curves.schedules)
        return [summarise(draws, plan, 1, REPLAYS) for plan in plans] if len(plans) > 1 else []

    return store.once(("early stopping", study.experiment_id), played)


def _evenly(curves: list[RecordedCurve]) -> list[RecordedCurve]:
    step = -(-len(curves) // MOST_REPLAYED)
    return curves[::step]
