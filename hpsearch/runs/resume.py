"""Resuming a run from the checkpoints in its folder, and writing them after every epoch.

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

from hpsearch.runs import checkpoint
from hpsearch.runs.messages import EpochMetrics
from hpsearch.runs.schedule import Schedule
from hpsearch.system.errors import InputError, MachineError

Identity = Mapping[str, Any]
"""A run's ``config``, ``fingerprint``, ``data_hash``, ``split_hash`` and ``statistics``."""


@dataclass(frozen=True)
class State:
    """The state of a run between two epochs, which a checkpoint stores.

    Attributes:
        network: tensors of the network by name.
        optimizer: tensors of the optimizer, by number of the weight and name.
        schedule: output of :meth:`Schedule.state_dict`.
        learning_rate: learning rate of the next step.
        history: metrics of all epochs so far.
    """

    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    schedule: dict[str, Any]
    learning_rate: float
    history: tuple[EpochMetrics, ...]


@dataclass(frozen=True)
class Resumable:
    """The checkpoints in the folder of a run, and how it can resume from them.

    Attributes:
        state: state of the newest usable checkpoint; ``None`` if the run starts from the beginning.
        damaged: names of damaged files.
        useless: files to remove, because they would look newer than the next ones to be written.
        best_is_lost: whether the weights of the best epoch must be written again, from ``state``.
    """

    state: State | None
    damaged: tuple[str, ...] = ()
    useless: tuple[Path, ...] = ()
    best_is_lost: bool = False


def best_epoch(history: Sequence[EpochMetrics]) -> int:
    """The epoch with the lowest validation loss, the first one if equal; 0 without epochs."""
    if not history:
        return 0
    return min(history, key=lambda metrics: metrics.validation_loss).epoch


def find(directory: Path, identity: Identity) -> Resumable:
    """Find the newest usable checkpoint, without changing the folder.

    A checkpoint is usable if it is undamaged and the weights of the best epoch exist, in their own
    file or, if that epoch is the last one, in the checkpoint itself. Without a usable checkpoint
    the run starts from the beginning, which gives the same numbers.

    Args:
        directory: folder of the run; it may be missing.
        identity: identity of the run to resume.

    Raises:
        InputError: a checkpoint belongs to another run, or another version wrote its content.
        MachineError: a checkpoint belongs to other molecules or another split.
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
            best_exists, broken = _best_files(directory, epoch, identity)
            damaged += broken
            if best_exists or epoch == len(candidate.history):
                state, best_is_lost = candidate, not best_exists
                break
        useless.append(path)
    last = 0 if state is None else len(state.history)
    best = checkpoint.files(directory, checkpoint.BEST)
    useless += [path for path in best if checkpoint.epoch_of(path) > last]
    return Resumable(state, tuple(dict.fromkeys(damaged)), tuple(useless), best_is_lost)


def prepare_folder(directory: Path, resumable: Resumable, identity: Identity) -> None:
    """Prepare the folder for resuming: restore lost best weights and remove useless files.

    Raises:
        checkpoint.DiskFull: there is no space for the weights of the best epoch.
        HpsearchError: the weights cannot be written.
    """
    state = resumable.state
    if state is not None and resumable.best_is_lost:
        epoch = best_epoch(state.history)
        _write_best(directory, epoch, state, identity)
    for path in resumable.useless:
        checkpoint.remove(path)


def capture(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    history: Sequence[EpochMetrics],
) -> State:
    """The state of a run after an epoch; :func:`restore` is the inverse."""
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
    """Load a state into the network, the optimizer and the schedule.

    Raises:
        InputError: the state, read from ``directory``, does not fit these objects.
    """
    with _refusing_other_content(directory):
        network.load_state_dict(state.network)
        optimizer_state = optimizer.state_dict()
        optimizer_state["state"] = {
            number: moments
            for number, _ in enumerate(network.parameters())
            # A weight without elements has no gradient, and so no state.
            if (moments := _with_prefix(state.optimizer, f"{number}."))
        }
        optimizer.load_state_dict(optimizer_state)
        schedule.load_state_dict(state.schedule)
        for group in optimizer.param_groups:
            group["lr"] = state.learning_rate


def write(directory: Path, state: State, identity: Identity) -> None:
    """Write a checkpoint and, if the last epoch is the best one, its weights.

    Raises:
        checkpoint.DiskFull: there is no space; older files are unchanged.
        HpsearchError: the folder cannot be written; older files are unchanged.
    """
    epoch = len(state.history)
    if best_epoch(state.history) == epoch:
        _write_best(directory, epoch, state, identity)
    tensors = {f"network.{name}": value for name, value in state.network.items()}
    tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
    values = {
        **identity,
        "history": [asdict(metrics) for metrics in state.history],
        "schedule": state.schedule,
        "learning_rate": state.learning_rate,
    }
    checkpoint.write(directory, checkpoint.CHECKPOINT, epoch, tensors, values)
    # The previous checkpoint and its best weights stay, in case the new ones are damaged.
    for stem in (checkpoint.CHECKPOINT, checkpoint.BEST):
        for path in checkpoint.files(directory, stem)[2:]:
            checkpoint.remove(path)


def _write_best(directory: Path, epoch: int, state: State, identity: Identity) -> None:
    """Write the weights of the best epoch, with the digests up to this epoch."""
    digests = [metrics.digest for metrics in state.history[:epoch]]
    values = {**identity, checkpoint.DIGESTS: digests}
    checkpoint.write(directory, checkpoint.BEST, epoch, state.network, values)


def best_weights(directory: Path, epoch: int, identity: Identity) -> dict[str, Tensor] | None:
    """The network's tensors of the best epoch; ``None`` if they are missing or damaged."""
    for path in _paths_of_best(directory, epoch):
        content = checkpoint.read(path)
        if content is not None and _is_of(content[1], identity):
            return content[0]
    return None


def _best_files(directory: Path, epoch: int, identity: Identity) -> tuple[bool, list[str]]:
    """Whether an undamaged file has the weights of the best epoch, and names of damaged files."""
    exists, broken = False, []
    for path in _paths_of_best(directory, epoch):
        content = checkpoint.read(path)
        if content is not None and _is_of(content[1], identity):
            exists = True
        else:
            broken.append(path.name)
    return exists, broken


def _paths_of_best(directory: Path, epoch: int) -> list[Path]:
    return list(directory.glob(f"{checkpoint.BEST}-{epoch:05d}-*.safetensors"))


def _is_of(values: Mapping[str, Any], identity: Identity) -> bool:
    return bool(values.get("fingerprint") == identity["fingerprint"])


def _require_same_run(directory: Path, values: Mapping[str, Any], identity: Identity) -> None:
    for key in ("fingerprint", "data_hash", "split_hash"):
        theirs = str(values.get(key))
        if theirs != identity[key]:
            if key == "fingerprint":
                changed = _changed(values.get("config") or {}, identity["config"])
                raise InputError(
                    f"{directory} holds a run with other settings ({changed}); choose another "
                    "folder, or move this one away"
                )
            raise MachineError(
                f"{directory} holds a run on other molecules ({key} {theirs[:12]}, now "
                f"{identity[key][:12]}); move the folder away"
            )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], most: int = 3) -> str:
    """Return the settings that differ: ``epochs 3, now 6``."""
    old, new = _settings(before), _settings(after)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    texts = [f"{name} {_text(old.get(name))}, now {_text(new.get(name))}" for name in names[:most]]
    more = len(names) - most
    return "; ".join([*texts, f"and {more} more"] if more > 0 else texts) or "fingerprint differs"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of all parts of a configuration."""
    settings: dict[str, Any] = {}
    for part, value in config.items():
        settings.update(value if isinstance(value, Mapping) else {part: value})
    return settings


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
    """Raise an ``InputError`` for a file with a valid digest and the content of another version."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint in {directory} must be from this version of hpsearch, got other "
            f"content ({type(error).__name__}); move the folder away"
        ) from error
