"""The worker: a process that trains one run after another."""

from __future__ import annotations

import errno
import json
import socket
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import PlacementGroupFactory, Trainable

from hpsearch.executor.failures import FIX_AND_RELAUNCH, one_line
from hpsearch.runs.messages import (
    Assignment,
    EpochEnded,
    Failure,
    FailureKind,
    Finished,
    Paused,
    Report,
    Started,
    to_json,
)
from hpsearch.system.errors import (
    HpsearchError,
    InputError,
    MachineError,
    disk_full,
    machine_at_fault,
)
from hpsearch.system.process import peak_memory, prepare_worker, reset_peak_memory

if TYPE_CHECKING:
    from hpsearch.config.run import DataConfig
    from hpsearch.data.molecule import Molecules


class _RetiredError(Exception):
    """The worker must not train another run."""


class Worker(Trainable):  # type: ignore[misc]
    """A process that trains one run after another; each of Tune's steps is one report."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        """Return the resources that Ray reserves for a run."""
        bundle = {"CPU": config["cpus"]}
        if config["gpus"] > 0:
            bundle["GPU"] = config["gpus"]
        return PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first run."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next run."""
        # Nothing slow may happen here, above all no import of torch. Tune gives the run of a worker
        # that is still starting to a free one and ends the first. Short runs would then all be
        # trained by a single worker.
        assignment = Assignment.from_dict(json.loads(new_config["assignment"]))
        self._reports: Iterator[Report] = _reports(
            assignment, new_config["threads"], new_config["device"]
        )
        return True

    def step(self) -> dict[str, Any]:
        """Return the next report of the run."""
        report = next(self._reports, None)
        if report is None:
            raise _RetiredError
        if isinstance(report, Finished | Paused):
            # Frees the network's memory: the process may stay idle while others share its GPU.
            self._reports = iter(())
        return {"report": to_json(report), "done": _may_take_another(report)}


def _may_take_another(report: Report) -> bool:
    """Whether the run has ended and this process can train another one.

    A failure may have left the process in a bad state (a CUDA error, fragmented memory), so it
    ends. A divergence does no harm.
    """
    if isinstance(report, Paused):
        return True
    if not isinstance(report, Finished):
        return False
    return not isinstance(report.outcome, Failure) or report.outcome.kind == "diverged"


def _reports(assignment: Assignment, cpus: float, device: str) -> Iterator[Report]:
    """Train a run and yield its reports for the driver."""
    prepare_worker(cpus)
    from hpsearch.runs.training import NonFiniteLoss, Training

    training = None
    try:
        _check_device(device)
        is_own_peak = reset_peak_memory(device)
        molecules = _molecules(assignment.config.data)
        _check_split(assignment, molecules)
        training = Training.begin(
            assignment.config,
            molecules,
            Path(assignment.directory),
            device=device,
            pieces=assignment.pieces,
        )
        facts = replace(training.facts, device=training.facts.device + _gpu())
        yield Started(assignment.key, facts, tuple(training.history))
        while not training.finished:
            if assignment.until is not None and training.epochs_done >= assignment.until:
                yield Paused(assignment.key, training.epochs_done)
                return
            yield EpochEnded(assignment.key, training.run_epoch())
        completion = training.complete(assignment.evaluate_test)
        peak = peak_memory(device) if is_own_peak else None
        yield Finished(assignment.key, replace(completion, peak_memory_bytes=peak))
    except NonFiniteLoss as error:
        failure = Failure("diverged", str(error), epoch=error.epoch, step=error.step)
        yield Finished(assignment.key, failure)
    except Exception as error:
        epoch = training.epochs_done + 1 if training else None
        kind, message = diagnosis(error)
        failure = Failure(kind, message, traceback.format_exc(), epoch)
        yield Finished(assignment.key, failure)


_opened: dict[str, Molecules] = {}
"""The molecules of the last run, by a hash of the configuration that names them."""


def _molecules(data: DataConfig) -> Molecules:
    """Return the molecules. Each process opens a file once; all processes share its memory."""
    from hpsearch.config.declaration import Declaration
    from hpsearch.config.run import fingerprint
    from hpsearch.data import own

    # Sizes and seeds of the split, which may differ between the runs, change no molecule.
    named = fingerprint(data.model_dump(mode="json", include=set(Declaration.model_fields)))
    if named not in _opened:
        _opened.clear()
        try:
            _opened[named] = own.load(data)
        except HpsearchError as error:
            raise MachineError(str(error)) from error
    return _opened[named]


def _gpu() -> str:
    """Return the name of the GPU that Ray assigned to this process; empty without one."""
    context = ray.get_runtime_context()
    identifiers = context.get_accelerator_ids().get("GPU", [])
    if not identifiers:
        return ""
    return f", GPU {'+'.join(identifiers)} of node {context.get_node_id()[:8]}"


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MachineError(
            f"the run was given a GPU, but torch sees no CUDA device on {socket.gethostname()}; "
            "install a build of torch for this GPU, or run on the CPU (--device cpu)"
        )


def _check_split(assignment: Assignment, molecules: Molecules) -> None:
    """Check the split before the run reads its checkpoint, which belongs to the expected split.

    Raises:
        MachineError: this machine gives another split or none. The same would happen to every run
            of the experiment on it.
    """
    from hpsearch.data.split import make_split

    if assignment.expected_split is None:
        return
    try:
        given = make_split(molecules, assignment.config.data).hash
    except InputError as error:
        raise MachineError(str(error)) from error
    if given != assignment.expected_split:
        raise MachineError(
            f"the run must use the split {assignment.expected_split}, but its data configuration "
            f"gives the split {given} on {socket.gethostname()}; the molecules, the split file or "
            "the code that makes the split has changed"
        )


def diagnosis(error: Exception) -> tuple[FailureKind, str]:
    """Return the kind and the one-line message of an exception that ended a run."""
    kind: FailureKind = "exception"
    if disk_full(error):
        kind = "disk_full"
    elif _short_of_memory(error):
        kind = "out_of_memory"
    elif machine_at_fault(error):
        kind = "machine"
    said = one_line(error)
    if not isinstance(error, HpsearchError):
        said = f"{type(error).__name__}: {said}"
    return kind, said + FIX_AND_RELAUNCH * (kind == "machine")


def _short_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or one of its causes, means that memory was short."""
    import torch

    while error is not None:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        # torch raises a plain RuntimeError if the host has too little memory.
        text = str(error).lower()
        if isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    # The message of oneDNN. If it means something else, only a few attempts are wasted.
    "could not create a primitive",
)
