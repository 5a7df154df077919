"""The schedule of the learning rate of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hpsearch.config.run import TrainingConfig

WARM_UP_FRACTION = 0.05
"""Fraction of the steps of a ``cosine`` schedule in which the learning rate rises."""

COOLDOWN_FRACTION = 0.2
"""Fraction of the steps of a ``constant_cooldown`` schedule in which the learning rate falls."""


class Schedule:
    """The schedule of the learning rate that the configuration names.

    Args:
        optimizer: the optimizer whose learning rate is set.
        config: the name of the schedule and its values.
        steps: total number of optimizer steps in all epochs.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
    ) -> None:
        self._by_step: torch.optim.lr_scheduler.LambdaLR | None = None
        self._by_epoch: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self._by_epoch = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                min_lr=config.minimum_learning_rate,
                threshold=0.0,
            )
        else:
            lowest = min(config.minimum_learning_rate / config.learning_rate, 1.0)
            factor = (
                _cosine(steps, lowest)
                if config.schedule == "cosine"
                else _constant_cooldown(steps, steps / config.epochs, lowest)
            )
            self._by_step = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def after_step(self) -> None:
        """Update the learning rate after an optimizer step."""
        if self._by_step is not None:
            self._by_step.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Update the learning rate after an epoch."""
        if self._by_epoch is not None:
            self._by_epoch.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON."""
        state: dict[str, Any] = (self._by_epoch or self._by_step).state_dict()  # type: ignore[union-attr]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of :meth:`state_dict`."""
        (self._by_epoch or self._by_step).load_state_dict(state)  # type: ignore[union-attr]


def _cosine(steps: int, lowest: float) -> Callable[[int], float]:
    """Return each step's factor: a warm-up over a fraction of all steps, then a half cosine."""
    warm_up = max(1, round(WARM_UP_FRACTION * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        progress = min((step - warm_up) / max(1, steps - warm_up), 1.0)
        return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def _constant_cooldown(steps: int, epoch_steps: float, lowest: float) -> Callable[[int], float]:
    """Return each step's factor: a warm-up over half an epoch, 1, then a cooldown to ``lowest``.

    Before the cooldown the factor does not depend on the number of steps. The cooldown falls as
    1 - sqrt(x), the best form in arXiv:2405.18392.
    """
    warm_up = max(1, round(epoch_steps / 2))
    cooldown = max(1, round(COOLDOWN_FRACTION * steps))

    def factor(step: int) -> float:
        rising = min((step + 1) / (warm_up + 1), 1.0)
        progress = min(max(step - (steps - cooldown), 0) / cooldown, 1.0)
        return rising * (1.0 - (1.0 - lowest) * math.sqrt(progress))

    return factor
