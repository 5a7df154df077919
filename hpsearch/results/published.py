"""The numbers printed in Table 1 of arXiv:2008.08461, and the arithmetic of its right-hand columns.

Mean absolute errors on unseen molecules, in each target's reporting unit (``targets.Target.unit``).
The L·Nets were trained on 109,000 of 133,885 molecules, one run per cell; the sizes of the training
sets of SchNet, SchNetPack and Cormorant differed.
"""

from __future__ import annotations

from hpsearch.config.targets import QM9_TARGETS

TRAIN_MOLECULES = 109_000
"""Molecules on which the paper's L·Nets were trained."""

TEST_MOLECULES = 23_885
"""Molecules on which the paper's L·Nets were tested: 133,885 - 109,000 - 1,000."""

NETWORKS = ("SchNet", "SchNetPack", "Cormorant", "L1Net", "L0Net", "L0NetDeep")
"""The networks of Table 1, in its order."""

_TABLE_1: dict[str, tuple[float, float, float, float, float, float]] = {
    "mu": (0.033, 0.021, 0.038, 0.043, 0.086, 0.091),
    "alpha": (0.235, 0.124, 0.085, 0.088, 0.115, 0.115),
    "homo": (41.0, 47.0, 34.0, 46.015, 47.069, 45.294),
    "lumo": (34.0, 39.0, 38.0, 34.646, 39.947, 37.217),
    "gap": (63.0, 74.0, 61.0, 67.543, 70.344, 67.873),
    "r2": (0.073, 0.158, 0.961, 0.354, 0.579, 0.382),
    "zpve": (1.700, 1.616, 2.027, 1.561, 1.804, 1.800),
    "U0": (14.0, 12.0, 22.0, 13.464, 19.943, 18.487),
    "U": (19.0, 12.0, 21.0, 13.834, 19.889, 19.533),
    "H": (14.0, 12.0, 21.0, 14.358, 21.001, 20.744),
    "G": (14.0, 13.0, 20.0, 13.989, 20.057, 18.744),
    "Cv": (0.033, 0.034, 0.026, 0.031, 0.035, 0.037),
}

MAES: dict[str, dict[str, float]] = {
    name: dict(zip(NETWORKS, _TABLE_1[name], strict=True)) for name in QM9_TARGETS.names
}
"""Target to network to the published mean absolute error."""

COMPARISONS = ("relative_L1_L0", "relative_Deep_L0", "delta_L1_Deep", "relative_L1_Deep")
"""Table 1's right-hand columns: %E_{L1,L0}, %E_{Deep,L0}, ΔE_{L1,Deep}, %E_{L1,Deep}."""


def compare(errors: dict[str, float]) -> dict[str, float]:
    """Return Table 1's right-hand columns from the errors of ``L1Net``, ``L0Net``, ``L0NetDeep``.

    ΔE_{X,Y} is X - Y. %E_{X,Y} is ΔE_{X,Y} divided by the error of the *L0Net*, in all three
    columns: also in %E_{L1,Deep}, where one might expect L0NetDeep's error. Values are fractions.

    Args:
        errors: network to mean absolute error; a network may be missing.

    Returns:
        Column to value. A column is left out if one of its networks is missing.
    """
    columns: dict[str, float] = {}
    l1, l0, deep = errors.get("L1Net"), errors.get("L0Net"), errors.get("L0NetDeep")
    if l1 is not None and l0:
        columns["relative_L1_L0"] = (l1 - l0) / l0
    if deep is not None and l0:
        columns["relative_Deep_L0"] = (deep - l0) / l0
    if l1 is not None and deep is not None:
        columns["delta_L1_Deep"] = l1 - deep
    if l1 is not None and deep is not None and l0:
        columns["relative_L1_Deep"] = (l1 - deep) / l0
    return columns
