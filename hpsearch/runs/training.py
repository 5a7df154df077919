"""The training of a run: its epochs, with an evaluation and a checkpoint after every one.

The module uses neither the database nor Ray. One ``Training`` is one run of a search or ablation.
"""

# M molecules, T targets

from __future__ import annotations

import math
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpsearch.config.run import TrialConfig
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.loss import multi_target_loss
from hpsearch.runs import record, resume
from hpsearch.runs.evaluation import Errors, Evaluator
from hpsearch.runs.messages import Completion, EpochMetrics, RunFacts
from hpsearch.runs.optimizer import Adam
from hpsearch.runs.schedule import Schedule
from hpsearch.system import failpoint
from hpsearch.system.errors import HpsearchError, InputError

CALIBRATION_MOLECULES = 64
"""Number of training molecules on which a new network is normalised."""


class NonFiniteLoss(HpsearchError):
    """The loss is not finite: the run has diverged.

    Attributes:
        epoch: number of the epoch, from 1.
        step: number of the optimizer step over all epochs, from 1.
    """

    def __init__(self, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(
            f"the loss is not finite at step {step} (epoch {epoch}, learning rate "
            f"{learning_rate:.3g})"
        )
        self.epoch = epoch
        self.step = step


class Training:
    """The training of one network; use :meth:`begin`, because the constructor loads no checkpoint.

    The initial weights depend only on the seed, and the order of the molecules only on the seed
    and the epoch. So a run that resumes on the same machine gives the same bits.

    Args:
        config: the configuration of the run.
        molecules: the data set.
        directory: folder of the run's checkpoints; the first checkpoint creates it.
        device: ``cpu``, ``cuda`` or, for one of several GPUs, ``cuda:1``.
        pieces: parts of nearly equal size into which a batch is cut. Their gradients are added, and
            the optimizer makes the same step up to rounding, in less memory. There are at most as
            many as molecules. A checkpoint can resume with another number of pieces.

    Raises:
        InputError: the configuration needs more molecules than there are, or there is no such
            device.

    Attributes:
        facts: the facts that are known before the first epoch.
        history: metrics of all epochs so far, those before a resume included.
        split: the training, validation and test molecules.
        evaluator: evaluates the network on molecules.
        validation_targets: ``[M, T]`` normalised targets of the validation molecules, float64.
        steps_per_epoch: number of optimizer steps per epoch.
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
        self.device = torch_device(device)
        self.history: list[EpochMetrics] = []
        self._pieces = pieces
        self.split: Split = make_split(molecules, config.data)
        statistics = TargetStatistics.fit(
            molecules, self.split.train, config.targets, masked=config.data.missing == "mask"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            network = MultiTargetNetwork(
                config.network, len(config.targets), len(molecules.elements), statistics.extensive
            )
        self.network = network.to(self.device)
        self.evaluator = Evaluator(self.network, molecules, statistics, self.device, pieces)
        normalised = self.evaluator.normalised
        self._training_targets = normalised(self.split.train).to(torch.get_default_dtype())
        self.validation_targets = normalised(self.split.validation)
        self._loss_weights: Tensor | None = None
        if (weights := statistics.loss_weights) is not None:
            self._loss_weights = (
                torch.from_numpy(weights).to(self._training_targets).to(self.device)
            )
        self._optimizer = Adam(
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
            zero_output_loss=self.evaluator.zero_output_loss(self.validation_targets),
            epochs=config.training.epochs,
        )
        self.facts = record.signed_facts(self.facts, config.fingerprint)
        self._first_digest = record.first_digest(
            config.fingerprint, molecules.content_hash, self.split.hash
        )

    @classmethod
    def begin(
        cls,
        config: TrialConfig,
        molecules: Molecules,
        directory: Path,
        device: str = "cpu",
        pieces: int = 1,
    ) -> Training:
        """Resume the run from the newest usable checkpoint in its folder, or start a new one.

        Unusable checkpoint files are removed. The arguments are those of the class.

        Raises:
            InputError: as for the class; or the folder's checkpoint belongs to another run.
            checkpoint.DiskFull: the weights of the best epoch must be written again, and do not
                fit on the disk.
        """
        training = cls(config, molecules, directory, device, pieces)
        training._resume(resume.find(directory, training._identity()))
        return training

    @property
    def epochs_done(self) -> int:
        """The number of epochs trained so far."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss, the first one if equal; 0 without epochs."""
        return resume.best_epoch(self.history)

    @property
    def finished(self) -> bool:
        """Whether the maximum number of epochs is reached or early stopping applies."""
        patience = self.config.training.early_stopping_patience
        stale = self.epochs_done - self.best_epoch
        return self.epochs_done >= self.config.training.epochs or stale >= patience

    def run_epoch(self) -> EpochMetrics:
        """Train one epoch, evaluate on the validation molecules and write a checkpoint.

        Raises:
            NonFiniteLoss: the training or validation loss is not finite.
            checkpoint.DiskFull: there is no space for the checkpoint.
            HpsearchError: the checkpoint cannot be written.
        """
        started = time.perf_counter()
        epoch = self.epochs_done + 1
        training_loss, learning_rate = self._train(epoch)
        errors = self.evaluate(self.split.validation, self.validation_targets)
        if not math.isfinite(errors.loss):
            raise NonFiniteLoss(epoch, epoch * self.steps_per_epoch, learning_rate)
        self._schedule.after_epoch(errors.loss)
        metrics = EpochMetrics(
            epoch=epoch,
            learning_rate=learning_rate,
            seconds=time.perf_counter() - started,
            training_loss=training_loss,
            validation_loss=errors.loss,
            target_losses=errors.target_losses,
            target_maes=errors.target_maes,
        )
        metrics = record.signed(metrics, self.history, self._first_digest)
        self.history.append(metrics)
        state = resume.capture(self.network, self._optimizer, self._schedule, self.history)
        resume.write(self.directory, state, self._identity())
        return metrics

    def complete(self, evaluate_test: bool) -> Completion:
        """Load the weights of the best epoch and return the result of the run.

        Args:
            evaluate_test: whether to evaluate on the test set.

        Raises:
            HpsearchError: the weights of the best epoch are missing or damaged.
        """
        self._load_best()
        best = self.history[self.best_epoch - 1]
        tested: Errors | None = None
        residuals: dict[str, list[float]] = {}
        if evaluate_test:
            normalised = self.evaluator.normalised(self.split.test)
            differences = self.evaluator.differences(self.split.test, normalised)
            tested = self.evaluator.errors(differences)
            residuals = self.evaluator.residuals(differences)
        return Completion(
            epochs=self.epochs_done,
            best_epoch=best.epoch,
            best_validation_loss=best.validation_loss,
            test_loss=tested.loss if tested else None,
            test_maes=tested.target_maes if tested else {},
            test_residuals=residuals,
        )

    def evaluate(self, rows: np.ndarray[Any, Any], normalised: Tensor) -> Errors:
        """Evaluate the network with its current weights.

        Args:
            rows: rows of the molecules.
            normalised: ``[M, T]`` their normalised targets, float64.
        """
        return self.evaluator.errors(self.evaluator.differences(rows, normalised))

    def step(self, chosen: np.ndarray[Any, Any]) -> Tensor:
        """Make one optimizer step on a batch and return its loss.

        Args:
            chosen: indices of the batch among the training molecules.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(chosen)
        self._optimizer.step()
        self._schedule.after_step()
        return loss

    def _train(self, epoch: int) -> tuple[float, float]:
        """Train one epoch; return its mean loss and the learning rate of its last step."""
        self.network.train()
        rows = self.split.train
        size = self.config.training.batch_size
        order = np.random.default_rng([self.config.training.seed, epoch]).permutation(len(rows))
        # Reading a loss waits for the GPU, so the losses of several steps are read together.
        check_every = 1 if self.device.type == "cpu" else 50
        pending: list[Tensor] = []
        rates: list[float] = []
        total = 0.0
        for step in range(self.steps_per_epoch):
            chosen = order[step * size : (step + 1) * size]
            rates.append(self._learning_rate)
            loss = self.step(chosen)
            failpoint.reach("mid-epoch")
            pending.append(loss * len(chosen))
            if len(pending) == check_every or step + 1 == self.steps_per_epoch:
                losses = torch.stack(pending).double().cpu()
                wrong = (~losses.isfinite()).nonzero()
                if len(wrong):
                    first = step + 1 - len(pending) + int(wrong[0]) + 1
                    before = (epoch - 1) * self.steps_per_epoch
                    raise NonFiniteLoss(epoch, before + first, rates[first - 1])
                total += float(losses.sum())
                pending.clear()
        return total / len(rows), rates[-1]

    def _add_gradients(self, chosen: np.ndarray[Any, Any]) -> Tensor:
        """Add the gradients of a batch's loss (Eq. 18) to the weights, and return the loss.

        Args:
            chosen: indices of the batch among the training molecules.
        """
        rows = self.split.train
        losses: list[Tensor] = []
        for piece in self._pieces_of(chosen):
            targets = self._training_targets[torch.from_numpy(piece)].to(self.device)
            outputs = self.evaluator.outputs(rows[piece])
            loss = multi_target_loss(outputs, targets, self._loss_weights)
            # The loss is a mean over molecules, so a piece is weighted by its number of molecules.
            loss = loss * (len(piece) / len(chosen))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _pieces_of(self, chosen: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return np.array_split(chosen, min(self._pieces, len(chosen)))

    def _resume(self, resumable: resume.Resumable) -> None:
        """Resume from the checkpoints in the folder, or calibrate the new network."""
        if resumable.state is not None:
            state = resumable.state
            resume.restore(self.directory, state, self.network, self._optimizer, self._schedule)
            # A checkpoint from before digests has none.
            for metrics in state.history:
                self.history.append(record.signed(metrics, self.history, self._first_digest))
        resume.prepare_folder(self.directory, resumable, self._identity())
        if not self.history:
            inputs = self.evaluator.inputs(self.split.train[:CALIBRATION_MOLECULES])
            self.network.calibrate(*inputs, pieces=self._pieces)
        damaged = resumable.damaged
        self.facts = replace(self.facts, resumed_from=self.epochs_done, damaged=damaged)

    def _load_best(self) -> None:
        weights = resume.best_weights(self.directory, self.best_epoch, self._identity())
        if weights is None:
            raise HpsearchError(
                f"the weights of the best epoch {self.best_epoch} in {self.directory} are missing "
                "or damaged; run the same command again, which trains the missing epochs"
            )
        self.network.load_state_dict(weights)

    def _identity(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "fingerprint": self.config.fingerprint,
            "data_hash": self.facts.data_hash,
            "split_hash": self.facts.split_hash,
            "statistics": self.evaluator.statistics.to_dict(),
        }

    @property
    def _learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _device_name(self) -> str:
        if self.device.type == "cpu":
            return "cpu"
        return torch.cuda.get_device_name(self.device)


def torch_device(name: str) -> torch.device:
    """The device called ``name``, such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InputError: the name is wrong, or torch does not see the device.
    """
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
            f"the device must be a GPU that torch sees, got '{name}' and torch sees "
            f"{torch.cuda.device_count()}; install a build of torch for CUDA, or choose cpu"
        )
    return device
