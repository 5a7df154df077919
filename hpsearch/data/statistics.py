"""The shift and scale of the targets: Eqs. 14 to 16, in native units and float64.

Symbols: t_m target of molecule m, p_m sum of its atomic references, A_m number of its atoms, t̃_m
deviation per atom. Shapes: M molecules, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.data.molecule import Floats, Molecules
from hpsearch.errors import InputError

# Rounding alone gives a relative deviation of about 1e-13.
_LEAST_RELATIVE_DEVIATION = 1e-10


def target_values(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """t_m [M, T] of the named targets, in native units."""
    columns = np.array([TARGET_NAMES.index(target(name).name) for name in targets], dtype=np.int64)
    return molecules.targets[np.asarray(rows, dtype=np.int64)[:, None], columns]


def atom_references(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """p_m = Σ_a ref(Z_a, C) [M, T] in native units (Eq. 14), with the references of Table 2."""
    references = np.array([target(name).references for name in targets], dtype=np.float64)
    return molecules.element_counts(rows) @ references.T


@dataclass(frozen=True, eq=False)
class TargetStatistics:
    """The mean and standard deviation of t̃_m = (t_m - p_m) / A_m over training molecules (Eq. 15).

    Attributes:
        targets: names of the targets.
        mean: [T] mean of t̃, in native units per atom.
        deviation: [T] σ_t̃, the population's standard deviation, in native units per atom.
    """

    targets: tuple[str, ...]
    mean: Floats
    deviation: Floats

    def __post_init__(self) -> None:
        for name, mean, deviation in zip(self.targets, self.mean, self.deviation, strict=True):
            target(name)
            usable = np.isfinite(mean) and np.isfinite(deviation)
            if not usable or deviation <= _LEAST_RELATIVE_DEVIATION * abs(mean):
                raise InputError(
                    f"target {name} must be known for every training molecule and must not be the "
                    f"same for all; its mean per atom is {mean:.6g}, its standard deviation "
                    f"{deviation:.6g}"
                )

    @classmethod
    def fit(cls, molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> TargetStatistics:
        """The statistics of the molecules in ``rows``, which must all be training molecules.

        Raises:
            InputError: there is no molecule, or a target is unknown or the same for all.
        """
        if np.size(rows) == 0:
            raise InputError("at least one training molecule is needed for the targets' statistics")
        values = target_values(molecules, rows, targets)
        atoms = molecules.atom_counts[np.asarray(rows, dtype=np.int64), None]
        per_atom = (values - atom_references(molecules, rows, targets)) / atoms
        return cls(tuple(targets), per_atom.mean(axis=0), per_atom.std(axis=0))

    def offsets(self, molecules: Molecules, rows: ArrayLike) -> Floats:
        """s_m = p_m + A_m mean(t̃) [M, T] in native units: Eq. 16 without the network's part."""
        atoms = molecules.atom_counts[np.asarray(rows, dtype=np.int64), None]
        return atom_references(molecules, rows, self.targets) + atoms * self.mean

    def normalise(self, molecules: Molecules, rows: ArrayLike) -> Floats:
        """y_m = (t_m - s_m) / σ_t̃ [M, T]: the normalised targets in the loss (Eq. 17)."""
        values = target_values(molecules, rows, self.targets)
        return (values - self.offsets(molecules, rows)) / self.deviation

    def restore(self, normalised: ArrayLike, molecules: Molecules, rows: ArrayLike) -> Floats:
        """t̂_m = s_m + σ_t̃ y_m [M, T] in native units (Eq. 16), the inverse of :meth:`normalise`."""
        scaled = np.asarray(normalised, dtype=np.float64) * self.deviation
        return self.offsets(molecules, rows) + scaled

    @property
    def reporting_scale(self) -> Floats:
        """[T] factor from a normalised error to an error in the target's reporting unit."""
        return self.deviation * [target(name).reporting_factor for name in self.targets]

    def to_dict(self) -> dict[str, list[Any]]:
        """The statistics with units, as JSON; :meth:`from_dict` is the inverse.

        They are lists, because a store may sort the keys of objects.
        """
        return {
            "targets": list(self.targets),
            "units": [target(name).native_unit for name in self.targets],
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TargetStatistics:
        """The statistics from the output of :meth:`to_dict`.

        Raises:
            InputError: a list is missing or has another length, a unit is not the target's native
                unit, or a number is unusable.
        """
        try:
            names = tuple(values["targets"])
            rows = zip(names, values["units"], values["mean"], values["deviation"], strict=True)
            units, mean, deviation = zip(*(row[1:] for row in rows), strict=True)
            statistics = cls(names, np.array(mean, np.float64), np.array(deviation, np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"statistics must have targets, units, mean and deviation, one each: {error}"
            ) from error
        for name, unit in zip(names, units, strict=True):
            if unit != target(name).native_unit:
                raise InputError(
                    f"statistics of target {name} must be in {target(name).native_unit}; "
                    f"got '{unit}'"
                )
        return statistics
