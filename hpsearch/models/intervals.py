"""Prediction intervals by split conformal prediction.

The score of a calibration molecule is |residual| / (spread + floor). The interval of a prediction
is q (spread + floor) on both sides, where q is the ⌈(n + 1) c⌉-th smallest of the n scores at the
level c. If new molecules are drawn like the calibration molecules, the interval contains the true
value with a probability of at least c (Vovk et al., 2005; Lei et al., 2018).

The spread of an ensemble is the standard deviation of its networks. A single network has none:
its spread is a line in the number of atoms, fitted to the validation molecules.
"""

# n molecules, T targets

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hpsearch.config.declaration import Strict
from hpsearch.data.molecule import Floats, Integers

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)
"""The levels for which a model keeps a quantile."""

FLOOR = 0.1
"""Part of the mean absolute residual that is the least spread."""


class Spread(Strict):
    """How the spread of a target follows from a molecule, in the target's reporting unit.

    Attributes:
        kind: ``ensemble``, or ``size`` for a line in the number of atoms.
        floor: is added to the spread.
        start: of the line; 0 for an ensemble.
        slope: of the line, per atom; 0 for an ensemble.
    """

    kind: Literal["ensemble", "size"]
    floor: Annotated[float, Field(ge=0)]
    start: float = 0.0
    slope: float = 0.0

    @classmethod
    def fit(cls, residuals: Floats, atoms: Integers, *, ensemble: bool) -> Spread:
        """Return the spread that fits validation molecules.

        Args:
            residuals: [n] in the reporting unit; NaN if unknown.
            atoms: [n] number of atoms.
            ensemble: whether several networks predict the target.
        """
        known = np.isfinite(residuals)
        size = np.abs(residuals[known])
        mean = float(size.mean()) if len(size) else 0.0
        if ensemble:
            return cls(kind="ensemble", floor=mean)
        line = np.stack([np.ones(len(size)), atoms[known]], axis=1)
        start, slope = np.linalg.lstsq(line, size, rcond=None)[0]
        return cls(kind="size", floor=FLOOR * mean, start=float(start), slope=float(slope))

    def of(self, deviations: Floats, atoms: Integers) -> Floats:
        """Return spread + floor [n] in the reporting unit.

        Args:
            deviations: [n] standard deviation over the networks, in the reporting unit.
            atoms: [n] number of atoms.
        """
        if self.kind == "ensemble":
            return deviations + self.floor
        return np.asarray(np.maximum(self.start + self.slope * atoms, 0.0) + self.floor)


class TargetIntervals(Strict):
    """The intervals of a target.

    Attributes:
        spread: see there.
        molecules: number of calibration molecules with a known value.
        quantiles: q by level in percent, such as ``95``; a level for which there were too few
            molecules is left out.
    """

    spread: Spread
    molecules: int
    quantiles: dict[str, float]

    @classmethod
    def fit(cls, spread: Spread, residuals: Floats, spreads: Floats) -> TargetIntervals:
        """Return the intervals for the residuals of calibration molecules.

        Args:
            spread: of the target.
            residuals: [n] in the reporting unit; NaN if unknown.
            spreads: [n] spread + floor of these molecules.
        """
        known = np.isfinite(residuals)
        scores = np.sort(np.abs(residuals[known]) / spreads[known])
        found = {level_name(level): quantile(scores, level) for level in LEVELS}
        return cls(
            spread=spread,
            molecules=len(scores),
            quantiles={name: value for name, value in found.items() if value is not None},
        )


class Calibration(Strict):
    """The calibration of a model.

    Attributes:
        molecules: which molecules it used: ``unused`` ones that no other set has, or
            ``validation``.
        optimistic: whether they have chosen the epoch. Then the intervals are too narrow.
        targets: the intervals by target.
    """

    molecules: Literal["unused", "validation"]
    optimistic: bool
    targets: dict[str, TargetIntervals]


def quantile(scores: Floats, level: float) -> float | None:
    """Return the ⌈(n + 1) level⌉-th smallest score; ``None`` if there are too few.

    Args:
        scores: [n] sorted.
        level: of the interval, between 0 and 1.
    """
    # Rounded, because 0.95 * 20 is 19.000000000000004 for some factors.
    place = math.ceil(round((len(scores) + 1) * level, 9))
    return None if place > len(scores) else float(scores[place - 1])


def level_name(level: float) -> str:
    """Return the level in percent, as the model's file names it."""
    return f"{100 * level:.10g}"
