"""Lines for a terminal: what plans of early stopping would have done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpsearch.results.replay import Summary
from hpsearch.terminal.columns import columns, hanging

_HEAD = (
    *("plan", "pauses after", "workers", "epochs", "of full", "hours"),
    *("regret", "5-95 %", "best lost", "at most"),
)


def replay_lines(
    found: Sequence[Summary], trials: int, epochs: int, replays: int, width: int | None
) -> Iterator[str]:
    """Yield a table of the plans, and what its columns mean.

    Args:
        found: a summary for each plan and number of workers.
        trials: number of trials of the study.
        epochs: of each of them.
        replays: number of replays of each plan.
        width: columns of the terminal; ``None`` for no limit.
    """
    yield from hanging(
        "",
        f"{replays} replays of {trials} trials of {epochs} epochs, drawn with replacement",
        width,
    )
    yield from columns([_HEAD, *map(_row, found)], width, left=(0, 1))
    for line in (
        "regret: how much higher the winner's loss is than the best one's, median and range",
        "best lost: how often another trial than the best one won, and the upper end of the 95 % "
        "interval of that chance, for trials like these",
    ):
        yield from hanging("", line, width)


def _row(summary: Summary) -> tuple[str, ...]:
    rungs = summary.plan.rungs
    pauses = "-" if rungs is None else ", ".join(map(str, rungs.epochs or ()))
    low, high = (f"{100 * end:.1f}" for end in summary.regret_ends)
    return (
        summary.plan.name,
        pauses,
        str(summary.workers),
        f"{summary.epochs:,.0f}",
        f"{100 * summary.share:.0f} %",
        f"{summary.hours:.2f}",
        f"{100 * summary.regret:.1f} %",
        f"{low}-{high}",
        f"{100 * summary.lost:.0f} %",
        f"{100 * summary.lost_at_most:.0f} %",
    )
