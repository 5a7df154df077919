"""The errors of two baselines without geometry; a network must be better than both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hpsearch.config.targets import target
from hpsearch.data.molecule import Floats, Molecules
from hpsearch.data.statistics import atom_references, target_values


def baselines(
    molecules: Molecules, train_rows: ArrayLike, test_rows: ArrayLike, targets: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean absolute errors on the test molecules, in each target's reporting unit.

    Both baselines predict t - p, the target minus its atomic references (Eq. 14; p = 0 if Table 2
    has none). So they predict energies of formation, not total energies, whose mean would be
    meaningless.

    Returns:
        ``{"mean": {target: error}, "composition": {target: error}}``. The first predicts the mean
        of the training molecules. The second is the composition fit: a least-squares fit on the
        counts of each element and a constant.
    """
    factors = np.array([target(name).reporting_factor for name in targets])
    train = _deviations(molecules, train_rows, targets)
    test = _deviations(molecules, test_rows, targets)
    fit = np.linalg.lstsq(_composition(molecules, train_rows), train, rcond=None)[0]
    errors = {
        "mean": test - train.mean(axis=0),
        "composition": test - _composition(molecules, test_rows) @ fit,
    }
    return {
        kind: dict(zip(targets, (np.abs(error).mean(axis=0) * factors).tolist(), strict=True))
        for kind, error in errors.items()
    }


def _deviations(molecules: Molecules, rows: ArrayLike, targets: Sequence[str]) -> Floats:
    """t_m - p_m [M, T] in native units."""
    return target_values(molecules, rows, targets) - atom_references(molecules, rows, targets)


def _composition(molecules: Molecules, rows: ArrayLike) -> Floats:
    """The counts of each element and a constant 1: [M, 6]."""
    counts = molecules.element_counts(rows).astype(np.float64)
    return np.concatenate([counts, np.ones((len(counts), 1))], axis=1)
