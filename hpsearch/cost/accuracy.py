"""How right a search's quote was: what was quoted beside what its trials took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, final


@dataclass(frozen=True)
class MeasuredTrial:
    """What a complete trial took, beside what it was quoted when it was drawn.

    Attributes:
        seconds: of all its epochs.
        epoch_seconds: of an epoch, on average.
        memory_bytes: most memory of its worker; ``None`` where that was not recorded.
        quoted_epoch_seconds: seconds of an epoch as quoted; ``None`` where no such configuration
            had been timed.
        quoted_memory_bytes: most memory as quoted; ``None`` likewise.
    """

    seconds: float
    epoch_seconds: float
    memory_bytes: int | None = None
    quoted_epoch_seconds: float | None = None
    quoted_memory_bytes: int | None = None


@final
@dataclass(frozen=True)
class QuoteAccuracy:
    """How far a study's quote was from what its trials took, over all its launches.

    Attributes:
        trials: complete ones that were quoted.
        epoch_error: median size of the relative error of an epoch's seconds.
        memory_error: median size of the relative error of the peak memory, over the trials that
            recorded it.
        quoted: seconds of all trials together as the first launch quoted them: low end, middle and
            high end of the interval; ``None`` where that launch quoted other trials than these.
        seconds: that these trials took together.
        failed_seconds: that failed trials took besides, which no quote includes.
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
        """The accuracy of ``quote``; ``None`` where no trial was quoted.

        Args:
            quote: `Quote.to_dict` of the study's first launch that had one.
            measured: all complete trials.
            failed_seconds: of the epochs of failed trials.
        """
        known = [each for each in measured if each.quoted_epoch_seconds is not None]
        if not known:
            return None
        quoted, seconds = None, sum(each.seconds for each in measured)
        if (
            quote
            and quote["run_seconds"]
            and (quote["done"], quote["trials"]) == (0, len(measured))
        ):
            quoted = tuple(quote["run_seconds"][end] for end in ("low", "middle", "high"))
            # Epochs alone are recorded, and survive an interruption: starts are taken as quoted.
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
        """Relative error of the quoted seconds; ``None`` where the quote was of other trials."""
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
        parts = []
        for what, error in (
            ("an epoch's seconds", self.epoch_error),
            ("memory", self.memory_error),
        ):
            if error is not None:
                parts.append(f"{what} {error:.0%} off")
        parts.append(f"the median of {self.trials} trial{'s' * (self.trials > 1)}")
        text = f"the quote was {', '.join(parts)}"
        if (hours := self.hours_error) is not None:
            text += f"; the trials' hours {abs(hours):.0%} too {'long' if hours > 0 else 'short'}"
        return text


def _typical_error(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Median size of the relative error of the first over the second, where both are known."""
    errors = [abs(quoted / found - 1) for quoted, found in pairs if quoted is not None and found]
    return median(errors) if errors else None
