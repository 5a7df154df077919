"""Rungs: when the trials of a search pause, and which of them go on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_serializer, model_validator

from hpsearch.config.declaration import Strict
from hpsearch.config.run import PositiveCount, ScheduleName

COSINE_FRACTION = 0.25
"""Least fraction of a ``cosine`` schedule before the first rung.

Before it, the losses favour small learning rates.
"""

LEAST_EPOCHS_OF_DEFAULT = 6
"""Least number of epochs of a trial for the default rungs."""


def _growing(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError("must grow from each to the next")
    return values


_Epochs = Annotated[
    tuple[PositiveCount, ...],
    Field(strict=False, min_length=1, max_length=10),
    AfterValidator(_growing),
]
_Seconds = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...],
    Field(strict=False, min_length=1, max_length=10),
    AfterValidator(_growing),
]


class Rungs(Strict):
    """When trials pause, and which go on: ``epochs``, ``seconds`` or the text ``default``.

    Attributes:
        default: whether the rungs are those of :func:`default_rungs`; nothing else is given then.
        epochs: the epochs after which every trial pauses.
        seconds: the same as seconds of training. They become epochs when the trial is drawn, by the
            cost model.
        reduction: one of this many trials at a rung goes on.
        always_finish: number of trials, the best ones, that are trained to the end in any case.
        tolerance: relative difference of two losses below which neither trial counts as better. It
            protects trials from the noise between seeds.
    """

    default: bool = False
    epochs: _Epochs | None = None
    seconds: _Seconds | None = None
    reduction: Annotated[int, Field(ge=2)] = 3
    always_finish: PositiveCount = 1
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value != "default":
            raise ValueError("must be 'default', or have epochs or seconds under it")
        return {"default": True}

    @model_validator(mode="after")
    def _one_resource(self) -> Rungs:
        given = [name for name in ("default", "epochs", "seconds") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"must have epochs, seconds or 'default', and only one, got {found}")
        return self

    @property
    def count(self) -> int:
        """The number of rungs."""
        return len(self.epochs or self.seconds or ())

    def epochs_of(self, most: int, epoch_seconds: float | None) -> tuple[int, ...]:
        """Return the epochs after which a trial pauses.

        Args:
            most: the trial's largest number of epochs, more than there are rungs.
            epoch_seconds: estimated seconds of one of its epochs, if the rungs are in seconds.
        """
        if self.epochs is not None:
            return self.epochs
        assert self.seconds is not None
        assert epoch_seconds is not None
        chosen: list[int] = []
        for place, seconds in enumerate(self.seconds):
            # Every trial has every rung, so a slow one reaches them after few epochs.
            least = chosen[-1] + 1 if chosen else 1
            last = most - (len(self.seconds) - place)
            chosen.append(min(max(round(seconds / epoch_seconds), least), last))
        return tuple(chosen)

    @model_serializer(mode="plain")
    def _given(self) -> str | dict[str, Any]:
        if self.default:
            return "default"
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value is not None and name != "default"
        }


def default_rungs(epochs: int, schedules: Sequence[ScheduleName]) -> Rungs | None:
    """Return the default rungs for runs of ``epochs``; ``None`` if they are too short for any.

    A third of the trials goes on at each rung. The rungs are at a third, a ninth and a
    twenty-seventh of the length. Runs of less than :data:`LEAST_EPOCHS_OF_DEFAULT` epochs have
    none: after so few steps the ranking is mostly chance, and little would be saved.

    Args:
        epochs: largest number of epochs of a trial.
        schedules: the schedules that a trial may have.
    """
    if epochs < LEAST_EPOCHS_OF_DEFAULT:
        return None
    parts = {round(epochs / 3**power) for power in (3, 2, 1)}
    least = least_epoch(epochs, schedules)
    chosen = tuple(sorted(part for part in parts if least <= part < epochs))
    return Rungs(epochs=chosen) if chosen else None


def least_epoch(epochs: int, schedules: Sequence[ScheduleName]) -> int:
    """Return the first epoch whose losses can be compared."""
    return max(1, -int(-epochs * COSINE_FRACTION // 1)) if "cosine" in schedules else 1
