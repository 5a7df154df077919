"""The schedule of the learning rate of a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from hpsearch.config.run import TrainingConfig

WARM_UP_FRACTION = 0.05
"""Fraction of the steps of a ``cosine`` schedule in which the learning rate rises."""


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
            warm_up = max(1, round(WARM_UP_FRACTION * steps))

            def factor(step: int) -> float:
                if step < warm_up:
                    return (step + 1) / (warm_up + 1)
                progress = min((step - warm_up) / max(1, steps - warm_up), 1.0)
                return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))

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
