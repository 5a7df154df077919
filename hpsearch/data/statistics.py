"""The shift and scale of the targets: Eqs. 14 to 16, in native units and float64.

Symbols: t_m target of molecule m, p_m sum of its atomic references, A_m number of its atoms, t̃_m
deviation per atom. Shapes: M molecules, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpsearch.config.targets import ELEMENTS, QM9_TARGETS, SYMBOLS, Targets
from hpsearch.data.molecule import Floats, Molecules
from hpsearch.system.errors import InputError

# Rounding alone gives a relative deviation of about 1e-13.
_LEAST_RELATIVE_DEVIATION = 1e-10


def target_values(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """t_m [M, T] of the named targets, in native units; NaN if unknown."""
    names = molecules.target_table.names
    columns = np.array(
        [names.index(molecules.target_table[name].name) for name in targets], dtype=np.int64
    )
    return molecules.targets[np.asarray(rows, dtype=np.int64)[:, None], columns]


def fixed_references(molecules: Molecules, targets: Sequence[str]) -> Floats:
    """[T, E] given references of every element, in native units: Table 2's for QM9."""
    table = molecules.target_table
    return np.array(
        [[table[name].references.get(z, 0.0) for z in molecules.elements] for name in targets],
        dtype=np.float64,
    )


def atom_references(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """p_m = Σ_a ref(Z_a, C) [M, T] in native units (Eq. 14), with the given references."""
    return molecules.element_counts(rows) @ fixed_references(molecules, targets).T


def divisors(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """[M, T] A_m for an extensive target, 1 for an intensive one."""
    atoms = molecules.atom_counts[np.asarray(rows, dtype=np.int64), None]
    extensive = np.array([molecules.target_table[name].extensive for name in targets])
    return np.where(extensive, atoms, 1.0)


def composition_fit(counts: Floats, values: Floats) -> Floats:
    """The least-squares fit of each target on ``counts``, over the molecules that have it.

    Args:
        counts: [M, C] of each molecule.
        values: [M, T]; NaN if unknown.

    Returns:
        [C, T].
    """
    known = ~np.isnan(values)
    if known.all():
        return np.asarray(np.linalg.lstsq(counts, values, rcond=None)[0], dtype=np.float64)
    columns = [
        np.linalg.lstsq(counts[mask], column[mask], rcond=None)[0]
        for mask, column in zip(known.T, values.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def training_references(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """[T, E] references of every element in native units: given, or fitted to training molecules.

    Args:
        molecules: the table.
        rows: the training molecules.
        targets: names of the targets.
    """
    references = fixed_references(molecules, targets)
    fitted = [column for column, name in enumerate(targets) if molecules.target_table[name].fitted]
    if fitted:
        counts = molecules.element_counts(rows).astype(np.float64)
        values = target_values(molecules, rows, [targets[column] for column in fitted])
        references[fitted] = composition_fit(counts, values).T
    return references


@dataclass(frozen=True, eq=False)
class TargetStatistics:
    """The mean and standard deviation of t̃_m = (t_m - p_m) / A_m over training molecules (Eq. 15).

    For an intensive target t̃_m = t_m.

    Attributes:
        targets: names of the targets.
        mean: [T] mean of t̃, in native units per atom.
        deviation: [T] σ_t̃, the population's standard deviation, in native units per atom.
        references: [T, E] reference of an atom in native units: given or fitted.
        target_table: the targets of the molecules.
        elements: the elements of the molecules.
        known: [T] part of the training molecules for which the target is known.
    """

    targets: tuple[str, ...]
    mean: Floats
    deviation: Floats
    references: Floats
    target_table: Targets = QM9_TARGETS
    elements: tuple[int, ...] = ELEMENTS
    known: Floats | None = None

    def __post_init__(self) -> None:
        for name, mean, deviation in zip(self.targets, self.mean, self.deviation, strict=True):
            self.target_table[name]
            usable = np.isfinite(mean) and np.isfinite(deviation)
            if not usable or deviation <= _LEAST_RELATIVE_DEVIATION * abs(mean):
                raise InputError(
                    f"target {name} must be known for every training molecule and must not be the "
                    f"same for all; its mean per atom is {mean:.6g}, its standard deviation "
                    f"{deviation:.6g}"
                )

    @classmethod
    def fit(
        cls,
        molecules: Molecules,
        rows: ArrayLike,
        targets: Sequence[str],
        *,
        masked: bool = False,
    ) -> TargetStatistics:
        """The statistics of the molecules in ``rows``, which must all be training molecules.

        Args:
            molecules: the table.
            rows: the training molecules.
            targets: names of the targets.
            masked: whether a target may be unknown for some molecules, which are then left out.

        Raises:
            InputError: there is no molecule, or a target is unknown or the same for all.
        """
        if np.size(rows) == 0:
            raise InputError("at least one training molecule is needed for the targets' statistics")
        values = target_values(molecules, rows, targets)
        references = training_references(molecules, rows, targets)
        above = values - molecules.element_counts(rows) @ references.T
        per_atom = above / divisors(molecules, rows, targets)
        known = ~np.isnan(values)
        if masked and not known.all():
            _require_known(known, targets)
            mean, deviation = np.nanmean(per_atom, axis=0), np.nanstd(per_atom, axis=0)
        else:
            mean, deviation = per_atom.mean(axis=0), per_atom.std(axis=0)
        return cls(
            tuple(targets),
            mean,
            deviation,
            references,
            molecules.target_table,
            molecules.elements,
            known.mean(axis=0),
        )

    def offsets(self, molecules: Molecules, rows: ArrayLike) -> Floats:
        """s_m = p_m + A_m mean(t̃) [M, T] in native units: Eq. 16 without the network's part."""
        fixed = molecules.element_counts(rows) @ self.references.T
        return fixed + divisors(molecules, rows, self.targets) * self.mean

    def normalise(self, molecules: Molecules, rows: ArrayLike) -> Floats:
        """y_m = (t_m - s_m) / σ_t̃ [M, T]: the normalised targets in the loss (Eq. 17)."""
        values = target_values(molecules, rows, self.targets)
        return (values - self.offsets(molecules, rows)) / self.deviation

    def restore(self, normalised: ArrayLike, molecules: Molecules, rows: ArrayLike) -> Floats:
        """t̂_m = s_m + σ_t̃ y_m [M, T] in native units (Eq. 16), the inverse of :meth:`normalise`."""
        scaled = np.asarray(normalised, dtype=np.float64) * self.deviation
        return self.offsets(molecules, rows) + scaled

    def per_atom(self, name: str, values: Floats, molecules: Molecules, rows: ArrayLike) -> Floats:
        """t̃_m = (t_m - p_m) / A_m [M] of one target (Eq. 14); t_m for an intensive one.

        Args:
            name: of the target.
            values: [M] t_m in native units.
            molecules: the table.
            rows: [M] rows of the molecules.
        """
        references = self.references[self.targets.index(name)]
        above = values - molecules.element_counts(rows) @ references
        return np.asarray(above / divisors(molecules, rows, [name])[:, 0])

    @property
    def extensive(self) -> tuple[bool, ...]:
        """Whether each target is a sum over atoms."""
        return tuple(self.target_table[name].extensive for name in self.targets)

    @property
    def loss_weights(self) -> Floats | None:
        """[T] factor of each target's squared errors in the training loss; ``None`` if all are 1.

        It is the declared weight divided by the part of the molecules for which the target is
        known. So a target counts as much as it would if all molecules had it.
        """
        weights = np.array([self.target_table[name].weight for name in self.targets])
        if self.known is not None:
            weights = weights / self.known
        return None if (weights == 1).all() else weights

    @property
    def reporting_scale(self) -> Floats:
        """[T] factor from a normalised error to an error in the target's reporting unit."""
        return self.deviation * [self.target_table[name].reporting_factor for name in self.targets]

    def to_dict(self) -> dict[str, list[Any]]:
        """The statistics with units, as JSON; :meth:`from_dict` is the inverse.

        They are lists, because a store may sort the keys of objects.
        """
        described: dict[str, list[Any]] = {
            "targets": list(self.targets),
            "units": [self.target_table[name].native_unit for name in self.targets],
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
        }
        if self._has_fitted:
            described["elements"] = [SYMBOLS[number] for number in self.elements]
            described["references"] = self.references.tolist()
        return described

    @property
    def _has_fitted(self) -> bool:
        return any(self.target_table[name].fitted for name in self.targets)

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        table: Targets = QM9_TARGETS,
        elements: tuple[int, ...] = ELEMENTS,
    ) -> TargetStatistics:
        """The statistics from the output of :meth:`to_dict`.

        Args:
            values: the output.
            table: the targets of the molecules.
            elements: the elements of the molecules.

        Raises:
            InputError: a list is missing or has another length, a unit is not the target's native
                unit, or a number is unusable.
        """
        try:
            names = tuple(values["targets"])
            rows = zip(names, values["units"], values["mean"], values["deviation"], strict=True)
            units, mean, deviation = zip(*(row[1:] for row in rows), strict=True)
            given = values.get("references") or [
                [table[name].references.get(z, 0.0) for z in elements] for name in names
            ]
            references = np.array(given, np.float64).reshape(len(names), len(elements))
            statistics = cls(
                names,
                np.array(mean, np.float64),
                np.array(deviation, np.float64),
                references,
                table,
                elements,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"statistics must have targets, units, mean and deviation, one each: {error}"
            ) from error
        for name, unit in zip(names, units, strict=True):
            if unit != table[name].native_unit:
                raise InputError(
                    f"statistics of target {name} must be in {table[name].native_unit}; "
                    f"got '{unit}'"
                )
        return statistics


_LEAST_KNOWN = 2


def _require_known(known: NDArray[np.bool_], targets: Sequence[str]) -> None:
    for name, count in zip(targets, known.sum(axis=0), strict=True):
        if count < _LEAST_KNOWN:
            raise InputError(
                f"target {name} must be known for at least {_LEAST_KNOWN} training molecules, "
                f"got {count} of {len(known):,}"
            )
