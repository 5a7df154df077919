"""The executor: Ray Tune trains the runs that a study or an ablation assigns.

No other package imports ray. Tune chooses a machine for each run and notices when a worker dies. It
stores nothing: every call makes a new ``Tuner``, whose files are removed at the end, and a run
resumes from its own checkpoint folder. The ``Work`` stays in the driver. A worker sends the driver
one report a step (:data:`hpsearch.runs.messages.Report`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.executor.placement import Placement

if TYPE_CHECKING:
    from hpsearch.executor.attempts import Event
    from hpsearch.runs.messages import Work

__all__ = ["Placement", "count_places", "run"]

# Set here, because Ray reads most of these when it is imported, by other modules of this package.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # Otherwise, under `uv run`, Ray packs and uploads the working folder.
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Ray prints the death of a worker even if the workers' output is switched off.
    RAY_DEDUP_LOGS_SKIP_REGEX=".",
    # Ray would start a worker per CPU at once. Without the settings of a run they are never used.
    RAY_prestart_worker_first_driver="0",
    # When memory is low, Ray then kills only the newest worker, not several at once.
    RAY_worker_killing_policy_by_group="true",
    # No result files and messages of Tune: the Work stores the results, and the caller prints.
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    # Tune's handler waits up to 15 s for running epochs; `signals.ended_by_signals` does not.
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Practically never: nothing is restored from snapshots of Tune's state.
    TUNE_GLOBAL_CHECKPOINT_S=str(10**9),
)


def run(
    work: Work,
    placement: Placement,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    scratch: Path | None = None,
) -> None:
    """Train the runs that ``work`` assigns until ``work.finished``.

    A run that is out of memory, or whose worker dies or hangs, is tried again according to
    `hpsearch.executor.attempts`. Only the last failure is given to ``work``.

    Args:
        work: assigns the runs and receives their results; called from this thread only.
        placement: what each run is given, and how many runs train at a time.
        on_event: called at every start, epoch and end, after ``work``.
        scratch: folder for Ray's temporary files; by default the system's, or ``/tmp`` if that
            path is too long for Ray's sockets.

    Raises:
        InputError: no machine of the cluster is large enough for a run, or the cluster cannot be
            reached. ``work`` has not been called.
        KeyboardInterrupt: the signal SIGINT, SIGTERM or SIGHUP came; its number is the argument.
            The workers have ended, their runs are unfinished.
        HpsearchError: Ray itself failed.
        Exception: the error that ``work`` or ``on_event`` raised; the workers have ended.
    """
    from hpsearch.executor.execution import train

    train(work, placement, on_event, scratch)


def count_places(placement: Placement) -> int:
    """Return how many runs would train at a time.

    Without an address, only this machine counts. Commands call this before they write anything.

    Raises:
        InputError: as for :func:`run`.
    """
    from hpsearch.executor.cluster import machines_of

    machines = machines_of(placement)
    placement.require_room(machines)
    return placement.runs_at_a_time(machines)
