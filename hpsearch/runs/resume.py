"""Continuing a run from its folder: the newest usable checkpoint; what an epoch writes there.

:func:`find` only reads. :func:`prepare_folder` then cleans the folder; :func:`write` adds to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.errors import InputError, MachineError
from hpsearch.runs import checkpoint
from hpsearch.runs.messages import EpochMetrics
from hpsearch.runs.schedule import Schedule

Identity = Mapping[str, Any]
"""What a run is: its ``config``, ``fingerprint``, ``data_hash``, ``split_hash``, ``statistics``."""


@dataclass(frozen=True)
class State:
    """A run between two epochs, as a checkpoint holds it.

    Attributes:
        network: the network's tensors by name.
        optimizer: the optimizer's tensors, by the weight's number and their name.
        schedule: what :meth:`Schedule.state_dict` gave.
        learning_rate: of the optimizer's next step.
        history: metrics of all epochs so far.
    """

    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    schedule: dict[str, Any]
    learning_rate: float
    history: tuple[EpochMetrics, ...]


@dataclass(frozen=True)
class Resumable:
    """What a run's folder holds for its continuation.

    Attributes:
        state: of the newest usable checkpoint; ``None`` where the run begins anew.
        damaged: names of the damaged files.
        useless: files that must be removed; they would be taken for newer than what is going to be
            written.
        best_is_lost: whether the best epoch's weights must be written again; they are ``state``'s.
    """

    state: State | None
    damaged: tuple[str, ...] = ()
    useless: tuple[Path, ...] = ()
    best_is_lost: bool = False


def best_epoch(history: Sequence[EpochMetrics]) -> int:
    """Epoch of the lowest validation loss, the first one of equals; 0 before any."""
    if not history:
        return 0
    return min(history, key=lambda metrics: metrics.validation_loss).epoch


def find(directory: Path, identity: Identity) -> Resumable:
    """The newest checkpoint that is whole and whose best epoch's weights are; changes nothing.

    The weights of the best epoch are also in the checkpoint itself if that epoch is its last one.
    Where no checkpoint is usable the run begins anew, which gives the same numbers.

    Args:
        directory: the run's folder; it may be missing.
        identity: of the run that is to go on.

    Raises:
        InputError: a checkpoint belongs to another run, or this version did not write its content.
        MachineError: a checkpoint is of other molecules or another split.
    """
    damaged: list[str] = []
    useless: list[Path] = []
    state, best_is_lost = None, False
    for path in checkpoint.files(directory, checkpoint.CHECKPOINT):
        content = checkpoint.read(path)
        if content is None:
            damaged.append(path.name)
        else:
            _require_same_run(directory, content[1], identity)
            with _refusing_other_content(directory):
                candidate = _state_of(*content)
            epoch = best_epoch(candidate.history)
            whole, broken = _best_files(directory, epoch, identity)
            damaged += broken
            if whole or epoch == len(candidate.history):
                state, best_is_lost = candidate, not whole
                break
        useless.append(path)
    last = 0 if state is None else len(state.history)
    best = checkpoint.files(directory, checkpoint.BEST)
    useless += [path for path in best if checkpoint.epoch_of(path) > last]
    return Resumable(state, tuple(dict.fromkeys(damaged)), tuple(useless), best_is_lost)


def prepare_folder(directory: Path, found: Resumable, identity: Identity) -> None:
    """Change the folder so that the run can go on from what was found.

    Raises:
        checkpoint.DiskFull: there is no space for the best epoch's weights.
        HpsearchError: they cannot be written.
    """
    if found.state is not None and found.best_is_lost:
        epoch = best_epoch(found.state.history)
        checkpoint.write(directory, checkpoint.BEST, epoch, found.state.network, dict(identity))
    for path in found.useless:
        checkpoint.remove(path)


def capture(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    history: Sequence[EpochMetrics],
) -> State:
    """The state of a run after an epoch; :func:`restore` is its inverse."""
    return State(
        network={name: value.contiguous() for name, value in network.state_dict().items()},
        optimizer={
            f"{number}.{name}": value
            for number, moments in optimizer.state_dict()["state"].items()
            for name, value in moments.items()
        },
        schedule=schedule.state_dict(),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        history=tuple(history),
    )


def restore(
    directory: Path,
    state: State,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
) -> None:
    """Put a state into the run's objects; the history stays with the caller.

    Raises:
        InputError: the state, which came from ``directory``, does not fit them.
    """
    with _refusing_other_content(directory):
        network.load_state_dict(state.network)
        whole = optimizer.state_dict()
        whole["state"] = {
            number: moments
            for number, _ in enumerate(network.parameters())
            # A weight without elements gets no gradient and so no state.
            if (moments := _with_prefix(state.optimizer, f"{number}."))
        }
        optimizer.load_state_dict(whole)
        schedule.load_state_dict(state.schedule)
        for group in optimizer.param_groups:
            group["lr"] = state.learning_rate


def write(directory: Path, state: State, identity: Identity) -> None:
    """Write a checkpoint, and the best epoch's weights if that is the last one.

    Raises:
        checkpoint.DiskFull: there is no space; older files stay whole.
        HpsearchError: the folder cannot be written; older files stay whole.
    """
    epoch = len(state.history)
    if best_epoch(state.history) == epoch:
        checkpoint.write(directory, checkpoint.BEST, epoch, state.network, dict(identity))
    tensors = {f"network.{name}": value for name, value in state.network.items()}
    tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
    values = {
        **identity,
        "history": [asdict(metrics) for metrics in state.history],
        "schedule": state.schedule,
        "learning_rate": state.learning_rate,
    }
    checkpoint.write(directory, checkpoint.CHECKPOINT, epoch, tensors, values)
    # The checkpoint before this one stays, in case this one is damaged; so does its best epoch.
    for stem in (checkpoint.CHECKPOINT, checkpoint.BEST):
        for path in checkpoint.files(directory, stem)[2:]:
            checkpoint.remove(path)


def best_weights(directory: Path, epoch: int, identity: Identity) -> dict[str, Tensor] | None:
    """The network's tensors of the best epoch; ``None`` where they are missing or damaged."""
    for path in _paths_of_best(directory, epoch):
        content = checkpoint.read(path)
        if content is not None and _is_of(content[1], identity):
            return content[0]
    return None


def _best_files(directory: Path, epoch: int, identity: Identity) -> tuple[bool, list[str]]:
    """Whether a whole file has the weights of the best epoch, and the names of damaged ones."""
    whole, broken = False, []
    for path in _paths_of_best(directory, epoch):
        content = checkpoint.read(path)
        if content is not None and _is_of(content[1], identity):
            whole = True
        else:
            broken.append(path.name)
    return whole, broken


def _paths_of_best(directory: Path, epoch: int) -> list[Path]:
    return list(directory.glob(f"{checkpoint.BEST}-{epoch:05d}-*.safetensors"))


def _is_of(values: Mapping[str, Any], identity: Identity) -> bool:
    return bool(values.get("fingerprint") == identity["fingerprint"])


def _require_same_run(directory: Path, values: Mapping[str, Any], identity: Identity) -> None:
    for key in ("fingerprint", "data_hash", "split_hash"):
        theirs = str(values.get(key))
        if theirs != identity[key]:
            kind = InputError if key == "fingerprint" else MachineError
            raise kind(
                f"the checkpoint in {directory} must belong to this run; its {key} is "
                f"{theirs[:12]}, the run's is {identity[key][:12]}; move the folder away"
            )


def _state_of(tensors: dict[str, Tensor], values: dict[str, Any]) -> State:
    return State(
        network=_with_prefix(tensors, "network."),
        optimizer=_with_prefix(tensors, "optimizer."),
        schedule=values["schedule"],
        learning_rate=float(values["learning_rate"]),
        history=tuple(EpochMetrics(**metrics) for metrics in values["history"]),
    )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def _refusing_other_content(directory: Path) -> Iterator[None]:
    """Refuses, as input, a file whose digest fits and whose content this version did not write."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint in {directory} must be one that this version wrote; its content is "
            f"not ({type(error).__name__}); move the folder away"
        ) from error
