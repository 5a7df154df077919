"""The learning rate of a run over its steps and epochs."""

from __future__ import annotations

import math
from typing import Any

import torch

from hpsearch.config.run import TrainingConfig

WARM_UP_FRACTION = 0.05
"""Part of a ``cosine`` schedule's steps over which the learning rate rises."""


class Schedule:
    """The learning rate over time, by the name in the configuration.

    Args:
        optimizer: whose learning rate is set.
        config: names the schedule and holds its values.
        steps: optimizer steps of all epochs together.
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
        """Call after every optimizer step."""
        if self._by_step is not None:
            self._by_step.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Call after every epoch."""
        if self._by_epoch is not None:
            self._by_epoch.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """JSON-safe state."""
        state: dict[str, Any] = (self._by_epoch or self._by_step).state_dict()  # type: ignore[union-attr]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        (self._by_epoch or self._by_step).load_state_dict(state)  # type: ignore[union-attr]
