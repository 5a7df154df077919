"""A callback that writes files for TensorBoard."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from hpsearch.api.callbacks import Callback, Launch, Run
from hpsearch.runs.messages import EpochMetrics, Failure, Outcome

VERDICT = "verdict"


class TensorBoard(Callback):
    """Writes the epochs, parameters and verdicts of runs for ``tensorboard --logdir FOLDER``.

    Each run has a folder of its own, ``FOLDER/NAME/KEY``. Its curves are ``loss/training`` and
    ``loss/validation`` (Eq. 18), ``mae/TARGET (UNIT)`` on the validation molecules,
    ``learning_rate`` and ``seconds``. The parameters and the lowest loss are in the tab HPARAMS.

    Args:
        folder: made if it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._of_launch = self.folder
        self._launch: Launch | None = None
        self._writers: dict[str, EventsWriter] = {}

    def on_launch(self, launch: Launch) -> None:
        """Make the folder of the study or the ablation."""
        self._launch = launch
        self._of_launch = self.folder / _file_name(launch.name)
        self._of_launch.mkdir(parents=True, exist_ok=True)

    def on_start(self, run: Run) -> None:
        """Write the parameters, and hide epochs that will be trained again."""
        writer = self._writer(run)
        assert run.facts is not None
        again = Event(step=run.facts.resumed_from + 1)
        again.session_log.CopyFrom(SessionLog(status=SessionLog.START))
        again.wall_time = time.time()
        writer.write_event(again)
        experiment, start, _ = summary.hparams(run.parameters, {_LOSS: 0.0})
        self._write(run, experiment, start)

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Write the losses and errors of an epoch."""
        units = self._launch.units if self._launch else {}
        values = {
            "loss/training": metrics.training_loss,
            _LOSS: metrics.validation_loss,
            "learning_rate": metrics.learning_rate,
            "seconds": metrics.seconds,
            **{
                f"mae/{name} ({units.get(name, '')})": value
                for name, value in metrics.target_maes.items()
            },
        }
        scalars = [summary.scalar(name, value) for name, value in values.items()]
        self._write(run, *scalars, step=metrics.epoch)

    def on_stop(self, run: Run, loss: float) -> None:
        """Write that the run was stopped early."""
        self._end(run, "stopped early", loss)

    def on_finish(self, run: Run, outcome: Outcome) -> None:
        """Write the verdict."""
        if isinstance(outcome, Failure):
            self._end(run, f"failed ({outcome.kind}): {outcome.message}", math.nan)
        else:
            verdict = f"complete, lowest validation loss in epoch {outcome.best_epoch}"
            self._end(run, verdict, outcome.best_validation_loss)

    def on_end(self) -> None:
        """Close the files of runs that have not ended."""
        for key in list(self._writers):
            self._writers.pop(key).close()

    def _end(self, run: Run, verdict: str, loss: float) -> None:
        _, _, end = summary.hparams(run.parameters, {_LOSS: 0.0})
        lowest = [] if math.isnan(loss) else [summary.scalar("loss/lowest", loss)]
        self._write(run, summary.text(VERDICT, verdict), end, *lowest)
        self._writers.pop(run.key).close()

    def _writer(self, run: Run) -> EventsWriter:
        if run.key not in self._writers:
            folder = self._of_launch / _file_name(run.key)
            folder.mkdir(parents=True, exist_ok=True)
            # Its name has the time in seconds: one of this second may exist.
            suffix = f".{time.time_ns()}"
            self._writers[run.key] = EventsWriter(str(folder / "events"), suffix)
        return self._writers[run.key]

    def _write(self, run: Run, *summaries: Any, step: int | None = None) -> None:
        writer = self._writer(run)
        for each in summaries:
            event = Event(summary=each, wall_time=time.time())
            if step is not None:
                event.step = step
            writer.write_event(event)
        # An open TensorBoard shows an epoch as soon as it has ended.
        writer.flush()


_LOSS = "loss/validation"


def _file_name(text: str) -> str:
    """Return a name or a key as a relative path: ``L1Net/mu/0`` stays a path of three folders."""
    parts = [re.sub(r"[^\w.+=@ -]", "_", part) or "_" for part in text.split("/")]
    return "/".join("_" if part in (".", "..") else part for part in parts)
