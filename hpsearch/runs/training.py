"""Training one network: epochs, schedule, checkpoints and the weights of the best epoch.

Torch and the data only: no database, no Ray. One ``Training`` is one run of a search or ablation.
"""

# M molecules, T targets

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpsearch.config.run import TrialConfig
from hpsearch.data.molecule import MoleculeBatch, Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.errors import HpsearchError, InputError, MachineError
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.loss import molecule_losses, multi_target_loss
from hpsearch.runs import checkpoint
from hpsearch.runs.messages import Completion, EpochMetrics, RunFacts
from hpsearch.runs.schedule import Schedule
from hpsearch.system import failpoint

EVALUATION_BATCH = 64
"""Molecules a batch without gradients; bounds memory, has no effect on results. Where a batch of
training is cut into pieces, so is this one: 64 molecules without gradients need more memory than 16
with them (289 and 223 MiB, the paper's L1Net on twelve targets)."""

CALIBRATION_MOLECULES = 64
"""Training molecules on which a fresh network is normalised."""


class NonFiniteLoss(HpsearchError):
    """The loss is not finite: the run has diverged.

    Attributes:
        epoch: epoch in which it happened, from 1.
        step: optimizer step in which it happened, from 1, over all epochs.
    """

    def __init__(self, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(
            f"the loss is not finite at step {step} (epoch {epoch}, learning rate "
            f"{learning_rate:.3g})"
        )
        self.epoch = epoch
        self.step = step


class Training:
    """One network in training; continues from the newest whole checkpoint in its folder.

    Everything random is a function of the configuration's seed: the weights, and the order of
    molecules as a function of seed and epoch. So a run that is continued on the same machine goes
    on bit for bit.

    Args:
        config: the run.
        molecules: the data set.
        directory: folder of the run's checkpoints; made at the first one.
        device: ``cpu``, ``cuda`` or, for one of several GPUs, ``cuda:1``.
        pieces: parts, as even as possible, into which each batch is cut; their gradients are added
            up and the optimizer makes one step, the same up to rounding and in less memory. More
            than there are molecules means one each. No part of what the run is: a checkpoint
            continues with any number.

    Raises:
        InputError: the configuration asks for more molecules than there are, there is no such
            device, or the folder's checkpoint belongs to another run.

    Attributes:
        facts: what is known before the first epoch.
        history: metrics of all epochs so far, those before a resume included.
        split: the molecules that train, choose and test.
        statistics: of the training molecules (Eqs 14-16).
        steps_per_epoch: optimizer steps of an epoch.
    """

    def __init__(
        self,
        config: TrialConfig,
        molecules: Molecules,
        directory: Path,
        device: str = "cpu",
        pieces: int = 1,
    ) -> None:
        if pieces < 1:
            raise InputError(f"a batch must be cut into at least 1 piece, got {pieces}")
        self.config = config
        self.directory = directory
        self.device = _torch_device(device)
        self.history: list[EpochMetrics] = []
        self._molecules = molecules
        self._pieces = pieces
        self.split: Split = make_split(molecules, config.data)
        self.statistics = TargetStatistics.fit(molecules, self.split.train, config.targets)
        self._scale = torch.from_numpy(self.statistics.reporting_scale)
        self._training_targets = self._normalised(self.split.train).to(torch.get_default_dtype())
        self._validation_targets = self._normalised(self.split.validation)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            network = MultiTargetNetwork(config.network, len(config.targets))
        self.network = network.to(self.device)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.training.learning_rate, fused=True
        )
        self.steps_per_epoch = math.ceil(len(self.split.train) / config.training.batch_size)
        self._schedule = Schedule(
            self._optimizer, config.training, self.steps_per_epoch * config.training.epochs
        )
        self.facts = RunFacts(
            weights=self.network.weights,
            host=platform.node(),
            device=self._device_name(),
            data_hash=molecules.content_hash,
            split_hash=self.split.hash,
            zero_output_loss=float(self._validation_targets.square().sum(1).mean()),
            epochs=config.training.epochs,
        )
        damaged = self._resume()
        if not self.history:
            self._calibrate()
        self.facts = replace(self.facts, resumed_from=self.epochs_done, damaged=damaged)

    @property
    def epochs_done(self) -> int:
        """Epochs trained so far."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest validation loss, the first one of equals; 0 before any."""
        return _best_epoch(self.history)

    @property
    def finished(self) -> bool:
        """Whether the most epochs are reached or early stopping has struck."""
        patience = self.config.training.early_stopping_patience
        stale = self.epochs_done - self.best_epoch
        return self.epochs_done >= self.config.training.epochs or stale >= patience

    def run_epoch(self) -> EpochMetrics:
        """Train one epoch, evaluate on the validation molecules, write the checkpoint.

        Raises:
            NonFiniteLoss: the training or validation loss is not finite.
            checkpoint.DiskFull: there is no space for the checkpoint.
            HpsearchError: the checkpoint cannot be written.
        """
        started = time.perf_counter()
        epoch = self.epochs_done + 1
        training_loss = self._train(epoch)
        loss, losses, maes = self.evaluate(self.split.validation, self._validation_targets)
        if not math.isfinite(loss):
            raise NonFiniteLoss(epoch, epoch * self.steps_per_epoch, self._learning_rate)
        self._schedule.after_epoch(loss)
        metrics = EpochMetrics(
            epoch=epoch,
            learning_rate=self._learning_rate,
            seconds=time.perf_counter() - started,
            training_loss=training_loss,
            validation_loss=loss,
            target_losses=losses,
            target_maes=maes,
        )
        self.history.append(metrics)
        self._save()
        return metrics

    def complete(self, evaluate_test: bool) -> Completion:
        """The run's result, with the weights of the best validation epoch in the network.

        Args:
            evaluate_test: whether the test set is opened.

        Raises:
            HpsearchError: the best epoch's weights are missing or damaged.
        """
        self._load_best()
        best = self.history[self.best_epoch - 1]
        test_loss: float | None = None
        test_maes: dict[str, float] = {}
        residuals: dict[str, list[float]] = {}
        if evaluate_test:
            normalised = self._normalised(self.split.test)
            differences = self._differences(self.split.test, normalised)
            test_loss, _, test_maes = self._errors(differences)
            columns = (differences * self._scale).float().T.tolist()
            residuals = dict(zip(self.config.targets, columns, strict=True))
        return Completion(
            epochs=self.epochs_done,
            best_epoch=best.epoch,
            best_validation_loss=best.validation_loss,
            test_loss=test_loss,
            test_maes=test_maes,
            test_residuals=residuals,
        )

    def evaluate(
        self, rows: np.ndarray[Any, Any], normalised: Tensor
    ) -> tuple[float, dict[str, float], dict[str, float]]:
        """Evaluate the network as it is.

        Args:
            rows: molecules.
            normalised: ``[M, T]`` their normalised targets, float64.

        Returns:
            Eq. 18, Eq. 17 averaged per target, and the MAE per target in reporting units.
        """
        return self._errors(self._differences(rows, normalised))

    @torch.no_grad()
    def _differences(self, rows: np.ndarray[Any, Any], normalised: Tensor) -> Tensor:
        """``[M, T]`` outputs less ``normalised``, where an error is exact (docs/decisions/0012)."""
        self.network.eval()
        outputs = torch.cat([self._outputs(batch) for batch in self._batches(rows)])
        return outputs.cpu().double() - normalised

    def _errors(self, differences: Tensor) -> tuple[float, dict[str, float], dict[str, float]]:
        """Eq. 18, Eq. 17 averaged per target, and the MAE per target in reporting units."""
        losses = molecule_losses(differences, torch.zeros_like(differences)).mean(0)
        maes = differences.abs().mean(0) * self._scale
        names = self.config.targets
        return (
            float(losses.sum()),
            dict(zip(names, losses.tolist(), strict=True)),
            dict(zip(names, maes.tolist(), strict=True)),
        )

    def _train(self, epoch: int) -> float:
        self.network.train()
        rows = self.split.train
        size = self.config.training.batch_size
        order = np.random.default_rng([self.config.training.seed, epoch]).permutation(len(rows))
        # A GPU is asked for its losses now and then only, since each answer waits for it.
        check_every = 1 if self.device.type == "cpu" else 50
        pending: list[Tensor] = []
        total = 0.0
        for step in range(self.steps_per_epoch):
            chosen = order[step * size : (step + 1) * size]
            loss = self._step(chosen)
            failpoint.reach("mid-epoch")
            pending.append(loss * len(chosen))
            if len(pending) == check_every or step + 1 == self.steps_per_epoch:
                losses = torch.stack(pending).double().cpu()
                wrong = (~losses.isfinite()).nonzero()
                if len(wrong):
                    first = step + 1 - len(pending) + int(wrong[0]) + 1
                    before = (epoch - 1) * self.steps_per_epoch
                    raise NonFiniteLoss(epoch, before + first, self._learning_rate)
                total += float(losses.sum())
                pending.clear()
        return total / len(rows)

    def _step(self, chosen: np.ndarray[Any, Any]) -> Tensor:
        """One optimizer step on a batch; its loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(chosen)
        self._optimizer.step()
        self._schedule.after_step()
        return loss

    def time_steps(self, warm_up: int, steps: int) -> tuple[float, float]:
        """Train and evaluate a little, to know how long it takes; spoils the run.

        Args:
            warm_up: optimizer steps before the timed ones.
            steps: optimizer steps that are timed.

        Returns:
            Median seconds of a step, and seconds of a molecule evaluated.
        """
        self.network.train()
        size = self.config.training.batch_size
        rows = np.random.default_rng(0).permutation(len(self.split.train))
        times = []
        for step in range(warm_up + steps):
            chosen = np.take(rows, range(step * size, (step + 1) * size), mode="wrap")
            started = time.perf_counter()
            # Read out, so that a GPU has ended.
            float(self._step(chosen))
            times.append(time.perf_counter() - started)
        evaluated = self.split.validation[: 2 * EVALUATION_BATCH]
        targets = self._validation_targets[: len(evaluated)]
        started = time.perf_counter()
        self.evaluate(evaluated, targets)
        return (
            statistics.median(times[warm_up:]),
            (time.perf_counter() - started) / len(evaluated),
        )

    def _add_gradients(self, chosen: np.ndarray[Any, Any]) -> Tensor:
        """Eq. 18 of a batch, whose gradients are added to the weights'.

        Args:
            chosen: the batch's places among the training molecules.
        """
        rows = self.split.train
        losses: list[Tensor] = []
        for piece in self._pieces_of(chosen):
            targets = self._training_targets[torch.from_numpy(piece)].to(self.device)
            loss = multi_target_loss(self._outputs(self._molecules.batch(rows[piece])), targets)
            # The loss is a mean over the batch's molecules, so each piece counts by its own.
            loss = loss * (len(piece) / len(chosen))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _pieces_of(self, chosen: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return np.array_split(chosen, min(self._pieces, len(chosen)))

    def _calibrate(self) -> None:
        batch = self._molecules.batch(self.split.train[:CALIBRATION_MOLECULES])
        self.network.calibrate(*self._inputs(batch), pieces=self._pieces)

    def _inputs(self, batch: MoleculeBatch) -> tuple[Tensor, Tensor, Tensor]:
        batch = batch.to(self.device)
        return batch.elements, batch.positions.to(torch.get_default_dtype()), batch.counts

    def _outputs(self, batch: MoleculeBatch) -> Tensor:
        outputs: Tensor = self.network(*self._inputs(batch))
        return outputs

    def _batches(self, rows: np.ndarray[Any, Any]) -> Iterator[MoleculeBatch]:
        size = max(1, EVALUATION_BATCH // self._pieces)
        for start in range(0, len(rows), size):
            yield self._molecules.batch(rows[start : start + size])

    def _normalised(self, rows: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(self.statistics.normalise(self._molecules, rows))

    @property
    def _learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def _device_name(self) -> str:
        if self.device.type == "cpu":
            return "cpu"
        return torch.cuda.get_device_name(self.device)

    # --- checkpoints ---

    def _save(self) -> None:
        epoch = self.epochs_done
        if self.best_epoch == epoch:
            weights = self._weights()
            checkpoint.write(self.directory, checkpoint.BEST, epoch, weights, self._identity())
        tensors = {f"network.{name}": value for name, value in self._weights().items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        state = {
            **self._identity(),
            "history": [asdict(metrics) for metrics in self.history],
            "schedule": self._schedule.state_dict(),
            "learning_rate": self._learning_rate,
        }
        checkpoint.write(self.directory, checkpoint.CHECKPOINT, epoch, tensors, state)
        # The checkpoint before this one stays, in case this one is damaged; so does its best epoch.
        for stem in (checkpoint.CHECKPOINT, checkpoint.BEST):
            for path in checkpoint.files(self.directory, stem)[2:]:
                checkpoint.remove(path)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.contiguous() for name, value in self.network.state_dict().items()}

    def _identity(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "fingerprint": self.config.fingerprint,
            "data_hash": self.facts.data_hash,
            "split_hash": self.facts.split_hash,
            "statistics": self.statistics.to_dict(),
        }

    def _resume(self) -> tuple[str, ...]:
        """Go on from the newest checkpoint that is whole and whose best epoch's weights are.

        Where there is none the run begins anew, which gives the same numbers; what lies there is
        of no use then, and would be taken for newer than what is going to be written.

        Returns:
            Names of the damaged files, which are removed.
        """
        damaged: list[str] = []
        useless: list[Path] = []
        found: _Content | None = None
        best = checkpoint.files(self.directory, checkpoint.BEST)
        for path in checkpoint.files(self.directory, checkpoint.CHECKPOINT):
            content = None if found else checkpoint.read(path)
            if content is not None:
                self._require_mine(content[1])
                with _refusing_other_content(self.directory):
                    have_best = self._have_best(content, damaged)
                if have_best:
                    found = content
            elif found is None:
                damaged.append(path.name)
            if found is None:
                useless.append(path)
        if found is not None:
            with _refusing_other_content(self.directory):
                self._restore(found)
        useless += [path for path in best if checkpoint.epoch_of(path) > self.epochs_done]
        for path in useless:
            checkpoint.remove(path)
        return tuple(dict.fromkeys(damaged))

    def _require_mine(self, state: dict[str, Any]) -> None:
        mine = self._identity()
        for key in ("fingerprint", "data_hash", "split_hash"):
            theirs = str(state.get(key))
            if theirs != mine[key]:
                kind = InputError if key == "fingerprint" else MachineError
                raise kind(
                    f"the checkpoint in {self.directory} must belong to this run; its {key} is "
                    f"{theirs[:12]}, the run's is {mine[key][:12]}; move the folder away"
                )

    def _have_best(self, content: _Content, damaged: list[str]) -> bool:
        """Whether the weights of the best epoch that a checkpoint speaks of are there.

        They are also in the checkpoint itself if that epoch is its last one, and are then written
        again where their own file is damaged.
        """
        tensors, state = content
        history = [EpochMetrics(**metrics) for metrics in state["history"]]
        epoch = _best_epoch(history)
        whole = False
        for path in self._best_files(epoch):
            if self._is_mine(checkpoint.read(path)):
                whole = True
            else:
                damaged.append(path.name)
        if not whole and epoch == len(history):
            weights = _with_prefix(tensors, "network.")
            checkpoint.write(self.directory, checkpoint.BEST, epoch, weights, self._identity())
            whole = True
        return whole

    def _restore(self, content: _Content) -> None:
        tensors, state = content
        self.network.load_state_dict(_with_prefix(tensors, "network."))
        optimizer = self._optimizer.state_dict()
        optimizer["state"] = {
            number: moments
            for number, _ in enumerate(self.network.parameters())
            # A weight without elements gets no gradient and so no state.
            if (moments := _with_prefix(tensors, f"optimizer.{number}."))
        }
        self._optimizer.load_state_dict(optimizer)
        self._schedule.load_state_dict(state["schedule"])
        for group in self._optimizer.param_groups:
            group["lr"] = float(state["learning_rate"])
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]

    def _best_files(self, epoch: int) -> list[Path]:
        return list(self.directory.glob(f"{checkpoint.BEST}-{epoch:05d}-*.safetensors"))

    def _is_mine(self, content: _Content | None) -> bool:
        return content is not None and content[1].get("fingerprint") == self.config.fingerprint

    def _load_best(self) -> None:
        for path in self._best_files(self.best_epoch):
            content = checkpoint.read(path)
            if content is not None and self._is_mine(content):
                self.network.load_state_dict(content[0])
                return
        raise HpsearchError(
            f"the weights of the best epoch {self.best_epoch} must lie in {self.directory}; they "
            "are missing or damaged; run the same command again to train what is missing"
        )


_Content = tuple[dict[str, Tensor], dict[str, Any]]


def _best_epoch(history: list[EpochMetrics]) -> int:
    """Epoch of the lowest validation loss, the first one of equals; 0 before any."""
    if not history:
        return 0
    return min(history, key=lambda metrics: metrics.validation_loss).epoch


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


def _torch_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(
            f"the device must be cpu or cuda (cuda:1 for the second GPU), got '{name}'"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"the device must be one that torch sees, got '{name}' of {torch.cuda.device_count()} "
            "GPUs; install a build of torch for them, or choose cpu"
        )
    return device


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
