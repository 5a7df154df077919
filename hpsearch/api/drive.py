"""Training the missing runs of a study or an ablation, for people and for callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hpsearch.api.callbacks import Callbacks
    from hpsearch.cost.estimate import TimeLeft
    from hpsearch.executor import Placement
    from hpsearch.executor.attempts import Event
    from hpsearch.runs.messages import Work
    from hpsearch.terminal.progress import Progress


class MakeProgress(Protocol):
    """Makes the progress of a launch: lines, or a live table on a terminal."""

    def __call__(self, noun: str, estimate: TimeLeft, **known: Any) -> Progress:
        """Return the progress.

        Args:
            noun: the word for a run.
            estimate: estimates the time left.
            known: arguments of `Progress` on the runs before this launch.
        """


@dataclass(frozen=True)
class Voice:
    """How a launch tells its user what happens.

    Attributes:
        say: prints a line.
        make_progress: makes the progress of the runs.
    """

    say: Callable[[str], None]
    make_progress: MakeProgress

    @classmethod
    def of(cls, say: Callable[[str], None]) -> Voice:
        """Return a voice that says one line per event."""

        def make(noun: str, estimate: TimeLeft, **known: Any) -> Progress:
            from hpsearch.terminal.progress import Progress

            return Progress(noun, estimate, say=say, **known)

        return cls(say, make)


def drive(
    work: Work,
    progress: Progress,
    placement: Placement,
    status: str,
    callbacks: Callbacks | None = None,
) -> None:
    """Train the missing runs and show the progress.

    Args:
        work: of the study or the ablation.
        progress: shows every event.
        placement: where runs are placed.
        status: the command that prints the status, for messages.
        callbacks: told every event.
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
        if callbacks is not None:
            callbacks.event(event)

    with progress:
        executor.run(work, placement, on_event=show)
    progress.ended()
    failpoint.reach("exit")
