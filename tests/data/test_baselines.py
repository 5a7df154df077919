from __future__ import annotations

import numpy as np
import pytest

from hpsearch.config.targets import TARGET_NAMES, TARGETS
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecule, Molecules
from hpsearch.data.split import Split
from hpsearch.data.statistics import atom_references

# Over a random split of 109,000, in reporting units and, for U0 to Cv, less the references:
# mean, standard deviation, MAE of the mean, MAE of a composition fit. For Cv the mean and the
# standard deviation are those of the heat capacity itself.
MEASURED = {
    "mu": (2.673, 1.503, 1.171, 0.988),
    "alpha": (75.28, 8.174, 6.294, 2.167),
    "homo": (-6536, 598, 435, 410),
    "lumo": (322, 1275, 1055, 765),
    "gap": (6858, 1284, 1076, 817),
    "r2": (1189.4, 280.5, 201.4, 164.9),
    "zpve": (4056.9, 901.7, 722.5, 38.4),
    "U0": (-76116, 10324, 8176, 867),
    "U": (-76580, 10415, 8250, 866),
    "H": (-77018, 10489, 8310, 866),
    "G": (-70837, 9498, 7516, 871),
    "Cv": (31.62, 4.068, 4.93, 1.731),
}


def test_distribution_of_qm9(molecules: Molecules, split: Split) -> None:
    values = molecules.targets[split.train]
    less = values - atom_references(molecules, split.train, TARGET_NAMES)
    for column, target in enumerate(TARGETS):
        mean, deviation, _, _ = MEASURED[target.name]
        quantity = (values if target.name == "Cv" else less)[:, column] * target.reporting_factor
        assert quantity.mean() == pytest.approx(mean, abs=0.01 * deviation), target.name
        assert quantity.std() == pytest.approx(deviation, rel=0.01), target.name


def test_baselines_of_qm9(molecules: Molecules, split: Split) -> None:
    errors = baselines(molecules, split.train, split.test, TARGET_NAMES)
    assert list(errors) == ["mean", "composition"]
    for name, (_, _, mean, composition) in MEASURED.items():
        # The errors of 20,831 test molecules vary by a hundredth from split to split.
        assert errors["mean"][name] == pytest.approx(mean, rel=0.03), name
        assert errors["composition"][name] == pytest.approx(composition, rel=0.03), name


def test_mean_by_hand() -> None:
    values = [1.0, 3.0, 10.0]
    table = Molecules.from_molecules(
        [
            Molecule(np.array([6, 1]), np.zeros((2, 3)), np.full(12, value), index)
            for index, value in enumerate(values)
        ]
    )
    errors = baselines(table, [0, 1], [2, 0], ["mu", "homo"])
    # The training mean is 2: errors 8 and 1.
    assert errors["mean"]["mu"] == pytest.approx(4.5)
    assert errors["mean"]["homo"] == pytest.approx(4.5 * 27_211.386245988)
    # Without a difference in composition the fit is the mean.
    assert errors["composition"]["mu"] == pytest.approx(4.5)


def test_composition_explains_what_is_additive() -> None:
    chains = [Molecule(np.array([6] * n), np.zeros((n, 3)), np.full(12, 7.0 * n + 2), n)
              for n in range(1, 9)]  # fmt: skip
    table = Molecules.from_molecules(chains)
    errors = baselines(table, np.arange(4), np.arange(4, 8), TARGET_NAMES)
    assert max(errors["composition"].values()) < 1e-6
    assert errors["mean"]["mu"] == pytest.approx(7 * 4)


def test_test_molecules_do_not_enter_the_fit(molecules: Molecules, split: Split) -> None:
    train = split.train[:500]
    one = baselines(molecules, train, split.test[:200], ["U0"])
    again = baselines(molecules, train, split.test[:400], ["U0"])
    half = baselines(molecules, train, split.test[200:400], ["U0"])
    for kind in ("mean", "composition"):
        expected = (one[kind]["U0"] + half[kind]["U0"]) / 2
        assert again[kind]["U0"] == pytest.approx(expected)
