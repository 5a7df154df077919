"""The errors of two baselines without geometry; a network must be better than both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hpsearch.data.molecule import Floats, Molecules
from hpsearch.data.statistics import composition_fit, target_values, training_references


def baselines(
    molecules: Molecules, train_rows: ArrayLike, test_rows: ArrayLike, targets: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean absolute errors on the test molecules, in each target's reporting unit.

    Both baselines predict t - p, the target minus its atomic references (Eq. 14; p = 0 if there are
    none; fitted ones are those of the training molecules). So they predict energies of formation,
    not total energies, whose mean would be meaningless.

    Returns:
        ``{"mean": {target: error}, "composition": {target: error}}``. The first predicts the mean
        of the training molecules. The second is the composition fit: a least-squares fit on the
        counts of each element and a constant.
    """
    table = molecules.target_table
    factors = np.array([table[name].reporting_factor for name in targets])
    references = training_references(molecules, train_rows, targets)

    def deviations(rows: ArrayLike) -> Floats:
        """t_m - p_m [M, T] in native units."""
        fixed = molecules.element_counts(rows) @ references.T
        return target_values(molecules, rows, targets) - fixed

    train, test = deviations(train_rows), deviations(test_rows)
    fitted = np.empty_like(test)
    extensive = np.array([table[name].extensive for name in targets])
    for kind in (True, False):
        of_kind = np.flatnonzero(extensive == kind)
        if len(of_kind):
            fit = composition_fit(_composition(molecules, train_rows, kind), train[:, of_kind])
            fitted[:, of_kind] = _composition(molecules, test_rows, kind) @ fit
    errors = {"mean": test - _mean(train), "composition": test - fitted}
    return {
        kind: dict(zip(targets, (_mean(np.abs(error)) * factors).tolist(), strict=True))
        for kind, error in errors.items()
    }


def _mean(values: Floats) -> Floats:
    """The mean of every column over its known values; NaN if none is known."""
    known = ~np.isnan(values)
    if known.all():
        return np.asarray(values.mean(axis=0))
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _composition(molecules: Molecules, rows: ArrayLike, extensive: bool) -> Floats:
    """The counts of each element and a constant 1: [M, E + 1].

    For intensive targets the counts are divided by the number of atoms.
    """
    counts = molecules.element_counts(rows).astype(np.float64)
    if not extensive:
        counts /= counts.sum(axis=1, keepdims=True)
    return np.concatenate([counts, np.ones((len(counts), 1))], axis=1)
