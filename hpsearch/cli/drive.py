"""Runs what a study or an ablation is missing and shows how it goes on."""

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
    """What shows how a launch goes on: a table on a terminal, lines elsewhere.

    Args:
        out: where lines are printed, and the terminal if it is one.
        noun: what a run is called.
        estimate: of the time left.
        known: of the runs before this launch, as :class:`Progress` takes it.
    """
    if out.screen is not None:
        from hpsearch.terminal.board import Board

        console = out.screen.console
        return Board(noun, estimate, say=out.say, follow=_nothing, console=console, **known)
    from hpsearch.terminal.progress import Progress

    return Progress(noun, estimate, say=out.say, **known)


def _nothing(line: str) -> None:
    """A table shows what this line would say."""


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
                        progress.print_line(line)

    with progress:
        executor.run(work, placement, on_event=tell)
    progress.ended()
    failpoint.reach("exit")
