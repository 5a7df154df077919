"""A callback that writes files for TensorBoard, whose own classes make their content."""

from __future__ import annotations

import os
import platform
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from hpsearch.api.arguments import path
from hpsearch.api.callbacks import Callback, Launch, Run
from hpsearch.runs.messages import EpochMetrics, Failure, Outcome
from hpsearch.system.errors import InputError

try:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams import summary_v2 as hyperparameters
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError:
    raise InputError(
        "the tracker tensorboard needs TensorBoard; install it with: pip install "
        "'hpsearch[tensorboard]'"
    ) from None

LOSS = "loss/validation"


class TensorBoard(Callback):
    """Writes the epochs, parameters and verdicts of runs for ``tensorboard --logdir FOLDER``.

    Each run has a folder of its own, ``FOLDER/NAME/KEY``. Its curves are ``loss/training`` and
    ``loss/validation`` (Eq. 18), ``mae/TARGET [UNIT]`` on the validation molecules,
    ``learning_rate`` and ``seconds``. The tab HPARAMS has the parameters, the tab TEXT the verdict.

    Args:
        folder: made if it does not exist.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = path("folder", folder)
        self._of_launch = self.folder
        self._launch: Launch | None = None
        self._files: dict[str, _EventFile] = {}

    def on_launch(self, launch: Launch) -> None:
        """Make the folder of the study or the ablation."""
        self._launch = launch
        self._of_launch = self.folder / _file_name(launch.name)
        self._of_launch.mkdir(parents=True, exist_ok=True)

    def on_start(self, run: Run) -> None:
        """Write the parameters, and hide epochs that will be trained again."""
        file = self._file(run)
        assert run.facts is not None
        again = SessionLog(status=SessionLog.START)
        file.write(Event(step=run.facts.resumed_from + 1, session_log=again))
        names = [hyperparameters.HParam(name) for name in run.parameters]
        metric = hyperparameters.Metric(LOSS)
        file.write(Event(summary=hyperparameters.hparams_config_pb(names, [metric])))
        file.write(Event(summary=hyperparameters.hparams_pb(run.parameters, trial_id=run.key)))
        file.flush()

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Write the losses and errors of an epoch."""
        units = self._launch.units if self._launch else {}
        values = {
            "loss/training": metrics.training_loss,
            LOSS: metrics.validation_loss,
            "learning_rate": metrics.learning_rate,
            "seconds": metrics.seconds,
        }
        for name, mae in metrics.target_maes.items():
            values[f"mae/{name} [{units.get(name, '')}]"] = mae
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        file = self._file(run)
        file.write(Event(step=metrics.epoch, summary=Summary(value=scalars)))
        # An open TensorBoard shows an epoch as soon as it has ended.
        file.flush()

    def on_stop(self, run: Run, loss: float) -> None:
        """Write that the run was stopped early."""
        self._end(run, f"stopped early, lowest validation loss {loss:,.4g}")

    def on_finish(self, run: Run, outcome: Outcome) -> None:
        """Write the verdict."""
        if isinstance(outcome, Failure):
            self._end(run, f"failed ({outcome.kind}): {outcome.message}")
        else:
            self._end(
                run,
                f"complete after {outcome.epochs} epochs, lowest validation loss "
                f"{outcome.best_validation_loss:,.4g} in epoch {outcome.best_epoch}",
            )

    def on_end(self) -> None:
        """Close the files of runs that have not ended."""
        with ExitStack() as files:
            for key in list(self._files):
                files.callback(self._files.pop(key).close)

    def _end(self, run: Run, verdict: str) -> None:
        text = TensorProto(dtype=DT_STRING, string_val=[verdict.encode()])
        value = Summary.Value(
            tag="verdict", metadata=create_summary_metadata("verdict", ""), tensor=text
        )
        self._file(run).write(Event(summary=Summary(value=[value])))
        self._files.pop(run.key).close()

    def _file(self, run: Run) -> _EventFile:
        if run.key not in self._files:
            self._files[run.key] = _EventFile(self._of_launch / _file_name(run.key))
        return self._files[run.key]


class _EventFile:
    """A new file of events in a folder, written in this thread.

    TensorBoard's own writer has a second thread, which prints a traceback if the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The name must contain "tfevents"; the nanoseconds make it new.
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}"
        self._file: IO[bytes] = (folder / name).open("xb")
        self._writer = RecordWriter(self._file)
        self.write(Event(file_version="brain.Event:2"))

    def write(self, event: Event) -> None:
        """Write an event with the time of now."""
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Make what was written visible to readers."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _file_name(text: str) -> str:
    """Return a name or a key as a relative path: ``L1Net/mu/0`` stays a path of three folders."""
    parts = [re.sub(r"[^\w.+=@ -]", "_", part) or "_" for part in text.split("/")]
    return "/".join("_" if part in (".", "..") else part for part in parts)
