"""Ray Tune as a stateless executor: trains the assignments of any ``Work`` on Ray's workers.

The only module that imports ray. Tune chooses where a run goes and notices when its process dies;
it remembers nothing: every call makes a fresh ``Tuner`` whose files are removed at the end, and
what continues a run is the run's own checkpoint folder. The ``Work`` stays in the driver's process:
it is asked by a searcher and told by a callback, which both pickle as nothing, since Tune writes
either to disk and the ``Work`` may hold a store's URL.

A worker tells the driver about a run in reports, one a step: what it is (:class:`RunFacts`, with
the epochs of an earlier launch), each epoch, and how it ended.
"""

from __future__ import annotations

import os

# Ray reads most of these while it is imported.
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
    # Tune would wait up to 15 s for the epochs in progress; :func:`_end_at_signals` ends at once.
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Snapshots of Tune's state, from which nothing is ever restored.
    TUNE_GLOBAL_CHECKPOINT_S=str(10**9),
)

from hpsearch.executor.events import EpochEnded, Event, Finished, Retried, Started
from hpsearch.executor.execution import check_placement, run
from hpsearch.executor.placement import device_of

__all__ = [
    "EpochEnded",
    "Event",
    "Finished",
    "Retried",
    "Started",
    "check_placement",
    "device_of",
    "run",
]
