"""Training the missing runs of a study or an ablation, with progress on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpsearch.cli.output import Output

if TYPE_CHECKING:
    from hpsearch.cost.estimate import TimeLeft
    from hpsearch.executor import Placement
    from hpsearch.executor.attempts import Event
    from hpsearch.runs.messages import Work
    from hpsearch.terminal.progress import Progress


def make_progress(out: Output, noun: str, estimate: TimeLeft, **known: Any) -> Progress:
    """Return the progress of a launch: a live table on a terminal, lines elsewhere.

    Args:
        out: where lines are printed.
        noun: the word for a run.
        estimate: estimates the time left.
        known: arguments of :class:`Progress` on the runs before this launch.
    """
    if out.screen is not None:
        from hpsearch.terminal.board import Board

        console = out.screen.console
        return Board(noun, estimate, say=out.say, follow=_nothing, console=console, **known)
    from hpsearch.terminal.progress import Progress

    return Progress(noun, estimate, say=out.say, **known)


def _nothing(line: str) -> None:
    """Print nothing, because the live table shows it."""


def drive(work: Work, progress: Progress, placement: Placement, status: str) -> None:
    """Train the missing runs and show the progress.

    Args:
        work: of the study or the ablation.
        progress: shows every event.
        placement: where runs are placed.
        status: the command that prints the status, for messages.
    """
    from hpsearch import executor
    from hpsearch.executor.attempts import Retried
    from hpsearch.runs.messages import EpochEnded, Failure, Finished, Paused, Started
    from hpsearch.system import failpoint

    if work.finished:
        return
    has_traceback = False

    def show(event: Event) -> None:
        nonlocal has_traceback
        match event:
            case Started(key, facts):
                progress.started(key, facts)
            case EpochEnded(key, metrics):
                progress.epoch(key, metrics)
            case Retried(key, failure, attempt):
                progress.retried(key, failure, str(attempt))
            case Paused(key, epoch):
                progress.paused(key, epoch)
            case Finished(key, outcome):
                progress.finished(key, outcome)
                # Only the first one, because later failures usually have the same cause.
                if isinstance(outcome, Failure) and outcome.traceback and not has_traceback:
                    has_traceback = True
                    for line in (
                        f"the traceback of {progress.noun} {key}; all of them: {status} --json",
                        *outcome.traceback.rstrip().splitlines(),
                    ):
                        progress.print_line(line)

    with progress:
        executor.run(work, placement, on_event=show)
    progress.ended()
    failpoint.reach("exit")
