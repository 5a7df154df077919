"""The accuracy of a search's estimate: its numbers compared with what the trials took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, final


@dataclass(frozen=True)
class MeasuredTrial:
    """The measured cost of a complete trial, and the estimate from when it was drawn.

    Attributes:
        seconds: seconds of all its epochs.
        epoch_seconds: mean seconds of an epoch.
        memory_bytes: the most memory that its worker used; ``None`` if not recorded.
        quoted_epoch_seconds: estimated seconds of an epoch; ``None`` if there was no estimate.
        quoted_memory_bytes: estimated memory; ``None`` if there was no estimate.
    """

    seconds: float
    epoch_seconds: float
    memory_bytes: int | None = None
    quoted_epoch_seconds: float | None = None
    quoted_memory_bytes: int | None = None


@final
@dataclass(frozen=True)
class QuoteAccuracy:
    """The errors of a study's estimates, over all its launches.

    Attributes:
        trials: number of complete trials with an estimate.
        epoch_error: median absolute relative error of the seconds per epoch.
        memory_error: median absolute relative error of the recorded peak memory.
        quoted: the first launch's estimate of the seconds of all trials together: low end, middle
            and high end of the interval. ``None`` if it was not an estimate of these trials.
        seconds: seconds that these trials took together.
        failed_seconds: seconds of failed trials, which no estimate includes.
    """

    trials: int
    epoch_error: float | None
    memory_error: float | None
    quoted: tuple[float, float, float] | None
    seconds: float
    failed_seconds: float

    @classmethod
    def of(
        cls,
        quote: Mapping[str, Any] | None,
        measured: Sequence[MeasuredTrial],
        failed_seconds: float,
    ) -> Self | None:
        """Return the accuracy of ``quote``; ``None`` if no trial had an estimate.

        Args:
            quote: `Quote.to_dict` of the first launch that made an estimate.
            measured: all complete trials.
            failed_seconds: seconds of the failed trials' epochs.
        """
        known = [trial for trial in measured if trial.quoted_epoch_seconds is not None]
        if not known:
            return None
        quoted, seconds = None, sum(trial.seconds for trial in measured)
        if (
            quote
            and quote["run_seconds"]
            and (quote["done"], quote["trials"]) == (0, len(measured))
        ):
            quoted = tuple(quote["run_seconds"][end] for end in ("low", "middle", "high"))
            # Only epochs are recorded, so the estimated seconds of the starts are added.
            seconds += len(measured) * quote["start_seconds"]
        return cls(
            len(known),
            _typical_error([(m.quoted_epoch_seconds, m.epoch_seconds) for m in known]),
            _typical_error([(m.quoted_memory_bytes, m.memory_bytes) for m in known]),
            quoted,
            seconds,
            failed_seconds,
        )

    @property
    def hours_error(self) -> float | None:
        """Relative error of the estimated seconds; ``None`` if it cannot be compared."""
        if self.quoted is None or self.seconds <= 0:
            return None
        return self.quoted[1] / self.seconds - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "trials": self.trials,
            "epoch_seconds": self.epoch_error,
            "memory": self.memory_error,
            "hours": self.hours_error,
            "failed_seconds": self.failed_seconds,
        }

    def __str__(self) -> str:
        errors = (("time per epoch", self.epoch_error), ("memory", self.memory_error))
        parts = [
            f"{what} off by {100 * error:.0f} %" for what, error in errors if error is not None
        ]
        text = f"estimate check (median of {self.trials} trial{'s' * (self.trials > 1)}): "
        text += ", ".join(parts)
        if (hours := self.hours_error) is not None:
            text += f"; total {100 * abs(hours):.0f} % too {'high' if hours > 0 else 'low'}"
        return text


def _typical_error(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Return the median absolute relative error over (estimated, measured) pairs."""
    errors = [abs(quoted / taken - 1) for quoted, taken in pairs if quoted is not None and taken]
    return median(errors) if errors else None
