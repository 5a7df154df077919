"""Lines for a terminal: what plans of early stopping would have done."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.results.curves import Noise
from hpsearch.results.replay import Replay, Summary
from hpsearch.terminal.columns import columns, hanging

_HEAD = (
    *("plan", "pauses after", "workers", "epochs", "of full", "hours"),
    *("regret", "5-95 %", "best lost", "at most"),
)


def replay_lines(replay: Replay, width: int | None) -> Iterator[str]:
    """Yield a table of the plans, and what its columns mean.

    Args:
        replay: what the plans would have done.
        width: columns of the terminal; ``None`` for no limit.
    """
    draws, epochs = len(replay.curves.draws), replay.curves.epochs
    yield from hanging(
        "",
        f"{replay.replays} replays of {draws} trials of {epochs} epochs, drawn with replacement",
        width,
    )
    yield from columns([_HEAD, *map(_row, replay.found)], width, left=(0, 1))
    for line in _meanings(replay.noise):
        yield from hanging("", line, width)


def _meanings(noise: Noise | None) -> Iterator[str]:
    yield "regret: how much higher the winner's loss is than the best one's, median and range"
    yield (
        "best lost: how often another trial than the best one won, and the upper end of the 95 % "
        "interval of that chance, for trials like these"
    )
    if noise is not None:
        low, high = (100 * end for end in noise.interval)
        yield (
            f"noise: a loss differs by {100 * noise.relative:.1f} % between seeds (95 % interval "
            f"{low:.1f} to {high:.1f} %), from {noise.trials} trials of {noise.configurations} "
            "configurations; a smaller regret is no real loss"
        )


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
