"""Ray Tune as a stateless executor of the runs that a study or an ablation assigns.

The only package that imports ray, and only once something runs. Tune chooses where a run goes and
notices when its process dies; it remembers nothing: every call makes a fresh ``Tuner`` whose files
are removed at the end, and what continues a run is the run's own checkpoint folder. The ``Work``
stays in the driver's process. A worker tells the driver about a run in reports
(:data:`hpsearch.runs.messages.Report`), one a step.
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

# Here, because Ray reads most of these while it is imported, which only modules below this do.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # `uv run` would make Ray pack and upload the working folder.
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Ray prints the death of a worker even where the workers' own output is switched off.
    RAY_DEDUP_LOGS_SKIP_REGEX=".",
    # Short of memory, Ray would kill several workers at once and not only the newest.
    RAY_worker_killing_policy_by_group="true",
    # Tune's own result files and messages: the Work keeps the results, the caller prints.
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    # Tune would wait up to 15 s for the epochs in progress; `signals.end_at_signals` does not.
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Snapshots of Tune's state, from which nothing is ever restored.
    TUNE_GLOBAL_CHECKPOINT_S=str(10**9),
)


def run(
    work: Work,
    placement: Placement,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    scratch: Path | None = None,
) -> None:
    """Train what ``work`` assigns until ``work.finished``.

    A run that is short of memory, or whose worker dies or hangs, is tried again as
    `hpsearch.executor.attempts` says, before ``work`` is given a failure.

    Args:
        work: the assignments, and where their results go; called from this thread only.
        placement: where runs are placed.
        on_event: called at every start, epoch and end, after ``work`` has been.
        scratch: folder for Ray's temporary files; the system's when ``None``, and ``/tmp`` where
            the path is too long for Ray's sockets.

    Raises:
        InputError: a run needs more than any machine of the cluster has, or the cluster cannot
            be reached. Nothing has been asked of ``work``.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came, its number is the argument; the workers
            are down, their runs have not been finished.
        HpsearchError: Ray itself failed.
        Exception: whatever ``work`` or ``on_event`` raised, once the workers are down.
    """
    from hpsearch.executor.execution import train

    train(work, placement, on_event, scratch)


def count_places(placement: Placement) -> int:
    """How many runs would go on side by side; for callers that write something before they run.

    Without an address it counts what this machine has.

    Raises:
        InputError: as :func:`run`.
    """
    from hpsearch.executor.cluster import machines_of

    machines = machines_of(placement)
    placement.require_room(machines)
    return placement.runs_at_a_time(machines)
