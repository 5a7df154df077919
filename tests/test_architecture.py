"""The layers that the configuration lists, and what is summed over them."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from hpsearch.ablation.variants import VARIANTS
from hpsearch.config.architecture import (
    MEAN_ATOMS,
    Architecture,
    count_weights,
    count_work,
    mean_pairs,
    relative_work,
)
from hpsearch.config.export import Winner
from hpsearch.config.run import TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.data import qm9
from hpsearch.nn import MultiTargetNetwork
from hpsearch.system.installation import find_space

WINNER = Winner.read(find_space("paper_l1net")).config


@pytest.mark.parametrize("targets", [1, 3])
def test_counts_are_those_of_networks_drawn_from_table_3(targets):
    space = SearchSpace.load(find_space("table3"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    for _ in range(12):
        network = space.suggest(study.ask()).network
        assert count_weights(network, targets) == MultiTargetNetwork(network, targets).weights


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_counts_are_those_of_the_papers_arms(variant):
    network = variant.derive(Winner.read(find_space("paper_l1net")).config.network)
    assert count_weights(network) == MultiTargetNetwork(network, 1).weights


def test_blocks_are_listed_in_the_order_in_which_features_pass_them():
    network = WINNER.network.model_copy(
        update={
            "embedding_size": 40,
            "featurization_scalars": 7,
            "featurization_vectors": 3,
            "featurization_blocks": 2,
            "output_blocks": 2,
            "output_scalars": 5,
            "output_vectors": 2,
            "output_mlp_layers": 2,
            "output_mlp_neurons": 6,
        }
    )
    layers = Architecture.of(network)
    assert [(b.entering, b.leaving) for b in (*layers.featurization, *layers.output)] == [
        ((40, 0), (7, 3)),
        ((7, 3), (7, 3)),
        ((7, 3), (5, 2)),
        ((5, 2), (6, 0)),
    ]
    # An atom is one of five elements, whatever the size of the embedding.
    assert [block.summed for block in layers.featurization] == [(5, 0), (7, 3)]
    assert [(a.entering, a.leaving, a.is_last) for a in layers.atom_wise] == [
        (6, 6, False),
        (6, 1, True),
    ]


# --- The order of runs and the time left ----------------------------------------------------------


@pytest.fixture(scope="module")
def molecules() -> list[np.ndarray]:
    """Positions of the atoms in some molecules of QM9."""
    qm9_molecules = qm9.load()
    rows = np.linspace(0, len(qm9_molecules) - 1, 2_000).astype(int)
    return [np.asarray(qm9_molecules.molecule(int(row)).positions, float) for row in rows]


def pairs_within(molecules: list[np.ndarray], radius: float) -> float:
    counts = [
        np.count_nonzero(
            np.linalg.norm(positions[:, None] - positions[None], axis=2)[
                np.triu_indices(len(positions), 1)
            ]
            <= radius
        )
        for positions in molecules
    ]
    return float(np.mean(counts))


@pytest.mark.parametrize("radius", [1.2, 1.5, 2.3, 3.0, 4.25, 5.5, 7.0, 9.0, 11.1, 30.0])
def test_the_table_of_pairs_is_that_of_the_molecules(molecules, radius):
    assert mean_pairs(radius) == pytest.approx(pairs_within(molecules, radius), rel=0.12, abs=0.6)
    assert np.mean([len(positions) for positions in molecules]) == pytest.approx(
        MEAN_ATOMS, rel=0.01
    )


def test_within_a_small_radius_there_are_next_to_no_pairs():
    assert mean_pairs(0.1) == 0 < mean_pairs(1.0) < 1 < mean_pairs(1.3) < mean_pairs(1.5)


def of_one_target(arm: str) -> TrialConfig:
    variant = next(variant for variant in VARIANTS if variant.name == arm)
    changed = {"network": variant.derive(WINNER.network), "targets": ("U0",)}
    return WINNER.model_copy(update=changed)


def test_the_papers_arms_cost_what_the_count_of_work_says(molecules):
    def counted(arm: str) -> float:
        network = of_one_target(arm).network
        atoms = float(np.mean([len(positions) for positions in molecules]))
        pairs = pairs_within(molecules, network.radial_maximum_angstrom)
        return count_work(network, 1, atoms, pairs).flops

    cheap, dear = (relative_work(of_one_target(arm)) for arm in ("L1Net", "L0Net"))
    assert cheap / dear == pytest.approx(counted("L1Net") / counted("L0Net"), rel=0.002)
    # Fed the embedding instead of the five elements, the first block made it 0.65.
    assert cheap / dear == pytest.approx(0.86, abs=0.015)


def test_an_embedding_of_any_size_costs_the_same():
    wide = WINNER.network.model_copy(update={"embedding_size": 1_000})
    assert relative_work(WINNER.model_copy(update={"network": wide})) == relative_work(WINNER)
    assert count_weights(wide) > count_weights(WINNER.network)
