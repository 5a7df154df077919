"""Runs what a study or an ablation is missing and shows how it goes on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli.output import say, shown

if TYPE_CHECKING:
    from hpsearch.cost.estimate import Estimate
    from hpsearch.executor import Placement
    from hpsearch.executor.attempts import Event
    from hpsearch.runs.messages import Work
    from hpsearch.terminal.progress import Progress


def make_progress(noun: str, estimate: Estimate, **known: Any) -> Progress:
    """Tells how a launch goes on: as a table on a terminal, as lines elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from hpsearch.terminal.board import Board

        return Board(noun, estimate, say=say, follow=lambda line: None, **known)
    from hpsearch.terminal.progress import Progress

    return Progress(noun, estimate, say=click.echo, **known)


def drive(work: Work, progress: Progress, placement: Placement, status: str) -> None:
    """Run what is missing and tell how it goes on.

    Args:
        work: the study's or the ablation's.
        progress: told of every event.
        placement: where runs are placed.
        status: the command that says how it stands.
    """
    from hpsearch import executor
    from hpsearch.executor.attempts import Retried
    from hpsearch.runs.messages import EpochEnded, Failure, Finished, Started
    from hpsearch.system import failpoint

    if work.finished:
        return
    has_traceback = False

    def tell(event: Event) -> None:
        nonlocal has_traceback
        match event:
            case Started(key, facts):
                progress.started(key, facts)
            case EpochEnded(key, metrics):
                progress.epoch(key, metrics)
            case Retried(key, failure, attempt):
                progress.retried(key, failure, str(attempt))
            case Finished(key, outcome):
                progress.finished(key, outcome)
                # Only the first: the others are most often its like.
                if isinstance(outcome, Failure) and outcome.traceback and not has_traceback:
                    has_traceback = True
                    for line in (
                        f"the traceback of {progress.noun} {key}; all of them: {status} --json",
                        *outcome.traceback.rstrip().splitlines(),
                    ):
                        say(line)

    with shown(progress):
        executor.run(work, placement, on_event=tell)
    progress.ended()
    failpoint.reach("exit")
