"""The page of `hpsearch replay`: what plans of early stopping would have saved, and lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.pages.figures import document
from hpsearch.pages.plots import NEUTRAL, PALETTE, log_axis
from hpsearch.report.render import Section
from hpsearch.results.curves import Noise
from hpsearch.results.replay import Plan, Replay, Summary, play

LARGEST_TO_ZERO = 3.0
"""The largest drawn loss, divided by the loss of a network that outputs zero."""


def documents(replay: Replay) -> dict[str, str]:
    """Return the content of all files that the command writes, by file name."""
    title = f"Early stopping of {replay.curves.recorded.study}, replayed"
    return {
        "replay.html": document(title, sections(replay), figures(replay)),
        "replay.json": json.dumps(replay.to_dict(), ensure_ascii=False, allow_nan=False) + "\n",
        "curves.json": replay.curves.to_json(),
    }


def sections(replay: Replay) -> list[Section]:
    """Return a table of the plans for each number of workers."""
    recorded = replay.curves.recorded
    training = recorded.space["content"]["training"]
    about = Section(
        "The trials",
        (
            f"{len(replay.curves.draws)} trials of {replay.curves.epochs} epochs from the study "
            f"'{recorded.study}', launched on {recorded.started} with the schedule "
            f"{training.get('schedule')}. Nothing was trained for this page.",
            *([] if replay.noise is None else [noise_text(replay.noise)]),
        ),
    )
    workers = sorted({summary.workers for summary in replay.found})
    return [
        about,
        *(
            plan_section(
                [summary for summary in replay.found if summary.workers == number],
                f"{replay.replays} replays of each plan, {_at_a_time(number)}, on trials "
                "drawn again with replacement, in a random order.",
            )
            for number in workers
        ),
    ]


def noise_text(noise: Noise) -> str:
    """Say how much a loss differs between seeds."""
    low, high = (100 * end for end in noise.interval)
    return (
        f"{noise.configurations} configurations were trained {noise.trials} times in all, with "
        f"other seeds. The lowest loss of one configuration differs by "
        f"{100 * noise.relative:.1f} % between seeds (standard deviation, 95 % interval {low:.1f} "
        f"to {high:.1f} %). A smaller regret is no real loss."
    )


def plan_section(found: Sequence[Summary], remark: str) -> Section:
    """Return a table of plans.

    Args:
        found: a summary of each plan, for one number of workers.
        remark: how they were replayed.
    """
    return Section(
        f"Plans, {_at_a_time(found[0].workers)}",
        (remark,),
        (
            *("Plan", "Pauses after", "Epochs", "Of full training", "Hours", "Regret"),
            *("5 to 95 %", "Best lost"),
        ),
        tuple(
            (
                summary.plan.name,
                "–"
                if summary.plan.rungs is None
                else ", ".join(map(str, summary.plan.rungs.epochs or ())),
                f"{summary.epochs:,.0f}",
                f"{100 * summary.share:.0f} %",
                f"{summary.hours:.2f}",
                f"{100 * summary.regret:.1f} %",
                f"{100 * summary.regret_ends[0]:.1f} to {100 * summary.regret_ends[1]:.1f} %",
                f"{100 * summary.lost:.0f} % (at most {100 * summary.lost_at_most:.0f} %)",
            )
            for summary in found
        ),
    )


def _at_a_time(workers: int) -> str:
    return "one trial at a time" if workers == 1 else f"{workers} trials at a time"


def figures(replay: Replay) -> Iterator[tuple[str, str, go.Figure]]:
    """Yield the name, the title and the figure of each picture."""
    first = [found for found in replay.found if found.workers == replay.found[0].workers]
    yield "plans", "Saved and lost", plans_figure(first, replay.noise)
    for summary in replay.found:
        if summary.plan.name == "default":
            yield "curves", "The trials", _curves(replay, summary.plan)
            return


def plans_figure(found: Sequence[Summary], noise: Noise | None = None) -> go.Figure:
    """Draw two panels with a line per plan: its epochs, and how much worse its winner is.

    Args:
        found: a summary of each plan, for one number of workers.
        noise: between seeds, drawn as a band.
    """
    plans = [summary.plan.name for summary in found]
    regret = [100 * summary.regret for summary in found]
    low, high = zip(*(summary.regret_ends for summary in found), strict=True)
    drawn = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    bars = go.Bar(
        x=[100 * summary.share for summary in found],
        y=plans,
        orientation="h",
        marker={"color": PALETTE[0]},
    )
    ends = {
        "array": [100 * end - middle for end, middle in zip(high, regret, strict=True)],
        "arrayminus": [middle - 100 * end for end, middle in zip(low, regret, strict=True)],
    }
    markers = go.Scatter(
        x=regret,
        y=plans,
        mode="markers",
        marker={"size": 10, "color": PALETTE[1]},
        error_x={"type": "data", "symmetric": False, "color": NEUTRAL, **ends},
    )
    drawn.add_trace(bars, row=1, col=1)
    drawn.add_trace(markers, row=1, col=2)
    if noise is not None:
        drawn.add_vrect(
            x0=0,
            x1=100 * noise.relative,
            fillcolor=NEUTRAL,
            opacity=0.2,
            line_width=0,
            annotation={"text": "noise between seeds", "font": {"size": 11}},
            annotation_position="bottom left",
            row=1,
            col=2,
        )
    drawn.update_xaxes(title="trained epochs (% of full training)", row=1, col=1)
    drawn.update_xaxes(
        title="how much higher the winner's loss is (%): median, 5 to 95 %",
        rangemode="tozero",
        row=1,
        col=2,
    )
    drawn.update_yaxes(autorange="reversed")
    drawn.update_layout(showlegend=False)
    return drawn


def _curves(replay: Replay, plan: Plan) -> go.Figure:
    """Draw every trial, in full as far as ``plan`` would have trained it."""
    draws = replay.curves.draws
    played = play(draws, plan, workers=1)
    figure, epochs = go.Figure(), range(1, replay.curves.epochs + 1)
    lowest = [[curve.lowest(epoch) for epoch in epochs[: len(curve.losses)]] for curve in draws]
    for place, (curve, losses) in enumerate(zip(draws, lowest, strict=True)):
        end, won = played.trained[place], place == played.winner
        hover = f"trial {curve.number}, epoch %{{x}}: %{{y:.4g}}<extra></extra>"
        colour = PALETTE[2] if won else PALETTE[0]
        for start, stop, faint in ((0, end, False), (end - 1, len(losses), True)):
            figure.add_scatter(
                x=list(epochs[start:stop]),
                y=losses[start:stop],
                mode="lines+markers",
                marker={"size": 4},
                line={"color": NEUTRAL if faint else colour, "width": 1.2 if faint else 2.2},
                opacity=0.45 if faint else 1.0,
                showlegend=False,
                hovertemplate=hover,
            )
    legend = (("winner", PALETTE[2]), ("trained", PALETTE[0]), ("not trained any more", NEUTRAL))
    for name, colour in legend:
        figure.add_scatter(x=[None], y=[None], mode="lines", line={"color": colour}, name=name)
    # A trial that diverged would leave no room for the others.
    limit = LARGEST_TO_ZERO * (replay.curves.recorded.zero_output_loss or math.inf)
    shown = [loss for losses in lowest for loss in losses if loss <= limit]
    hidden = sum(min(losses) > limit for losses in lowest)
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(**log_axis(shown, "lowest validation loss so far (Eq. 18)"))
    figure.update_yaxes(range=[math.log10(0.8 * min(shown)), math.log10(1.2 * max(shown))])
    total = sum(map(len, lowest))
    figure.update_layout(
        title=f"What the default rungs train: {played.epochs} of {total} epochs"
        + (f"; {hidden} diverged trials are above the picture" if hidden else ""),
        height=520,
    )
    return figure
