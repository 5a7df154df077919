"""Arms of one's own, arms matched by weights, repeats on other molecules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from hpsearch.ablation.declared import declared_variants
from hpsearch.ablation.plan import AblationPlan
from hpsearch.ablation.variants import VARIANTS, drop_vectors, match_weights
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig, NetworkConfig, TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split, save_split
from hpsearch.system.errors import InputError
from hpsearch.system.installation import find_space

WINNER = Winner.read(find_space("paper_l1net"))
NETWORK = WINNER.config.network


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    return qm9.load()


# --- Matched by weights


def test_dims_keeps_components_and_almost_doubles_the_weights() -> None:
    plan = AblationPlan.make(WINNER, targets=["mu"])
    assert plan.networks["L0Net"].featurization_scalars == 57 + 3 * 29
    assert 1.5 < plan.weights["L0Net"] / plan.weights["L1Net"] < 2.2


def test_params_brings_every_arm_within_a_few_percent() -> None:
    plan = AblationPlan.make(WINNER, targets=["mu"], match="params")
    reference = plan.weights["L1Net"]
    assert plan.networks["L1Net"] == NETWORK
    for name, weights in plan.weights.items():
        assert abs(weights / reference - 1) < 0.05, name
    deep, flat = plan.networks["L0NetDeep"], plan.networks["L0Net"]
    assert deep.featurization_blocks == flat.featurization_blocks + 1
    assert deep.featurization_scalars < flat.featurization_scalars < 57 + 3 * 29


def test_no_other_multiplicity_is_nearer() -> None:
    space = SearchSpace.load(find_space("table3"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    for _ in range(8):
        network = space.suggest(study.ask()).network
        flat, wanted = drop_vectors(network), count_weights(network)
        matched = match_weights(flat, wanted)
        distance = abs(count_weights(matched) - wanted)
        for step in (-1, 1):
            scalars = matched.featurization_scalars + step
            share = scalars / flat.featurization_scalars
            between = max(1, round(share * flat.output_scalars)) if flat.output_blocks > 1 else 0
            other = NetworkConfig.model_validate(
                {
                    **matched.model_dump(),
                    "featurization_scalars": scalars,
                    "output_scalars": between,
                }
            )
            assert abs(count_weights(other) - wanted) >= distance


def test_a_count_below_every_network_gives_the_smallest() -> None:
    assert match_weights(drop_vectors(NETWORK), 1).featurization_scalars == 1


def test_matching_is_part_of_what_an_ablation_is_and_dims_keeps_its_old_name() -> None:
    dims, params = (AblationPlan.make(WINNER, match=match) for match in ("dims", "params"))
    assert dims.identity != params.identity
    # Of before there was a choice: stores made then go on.
    assert dims.identity.startswith("ba53925d")


# --- Declared in a file

GOOD = """
variants:
  ShortSighted:
    description: pairs within 5 Å only
    network:
      radial_maximum_angstrom: 5.0
  L0NetSlow:
    from: L0Net
    training:
      learning_rate: 0.002
      epochs: 7
"""


def declared(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "arms.yaml"
    path.write_text(text)
    return path


def test_declared_variants_stand_beside_the_five(tmp_path: Path) -> None:
    own = declared_variants(declared(tmp_path, GOOD), WINNER)
    plan = AblationPlan.make(WINNER, targets=["mu"], declared=own)
    names = tuple(variant.name for variant in plan.variants)
    assert names == (*(variant.name for variant in VARIANTS), "ShortSighted", "L0NetSlow")
    cells = {str(cell.key): cell.config for cell in plan.cells}
    assert cells["ShortSighted/mu/0"].network.radial_maximum_angstrom == 5.0
    assert cells["ShortSighted/mu/0"].network.featurization_vectors == 29
    assert cells["ShortSighted/mu/0"].training == cells["L1Net/mu/0"].training
    slow = cells["L0NetSlow/mu/0"]
    assert slow.network == cells["L0Net/mu/0"].network
    assert (slow.training.learning_rate, slow.training.epochs) == (0.002, 7)
    assert own[0].description == "pairs within 5 Å only"
    assert own[1].description == "L0Net with learning_rate 0.002, epochs 7"


def test_a_declared_variant_can_be_chosen_alone(tmp_path: Path) -> None:
    own = declared_variants(declared(tmp_path, GOOD), WINNER)
    plan = AblationPlan.make(WINNER, variants=["shortsighted", "L0Net"], declared=own)
    assert [variant.name for variant in plan.variants] == ["L0Net", "ShortSighted"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("variants: {}\n", 1, "at least 1"),
        ("variants:\n  L1Net: {network: {residual: false}}\n", 2, "must be new"),
        ("variants:\n  l0net: {network: {residual: false}}\n", 2, "must be new"),
        ("variants:\n  mean: {network: {residual: false}}\n", 2, "Table 1's columns"),
        ("variants:\n  A_runs: {network: {residual: false}}\n", 2, "Table 1's columns"),
        ("variants:\n  a/b: {network: {residual: false}}\n", 2, "up to 40 letters"),
        ("variants:\n  A: {from: L2Net, network: {residual: false}}\n", 2, "did you mean L1Net"),
        ("variants:\n  A: {from: L0Net}\n", 2, "must change something"),
        ("variants:\n  A:\n    network:\n      cutoff: 5.0\n", 4, "fields of the configuration"),
        ("variants:\n  A:\n    training:\n      seed: 5\n", 4, "which the repeats set"),
        ("variants:\n  A:\n    network:\n      radial_functions: 1\n", 2, "greater than or equal"),
        ("variants:\n  A:\n    network:\n      radial_functions: many\n", 2, "integer"),
        ("variants:\n  A:\n    networks: {residual: false}\n", 3, "did you mean network"),
        ("arms: {}\n", 1, "variants"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = declared(tmp_path, text)
    with pytest.raises(InputError) as refused:
        declared_variants(path, WINNER)
    said = str(refused.value)
    assert said.startswith(f"{path}:{line}: "), said
    assert message in said
    assert "\n" not in said


# --- Repeats on other molecules


def test_repeats_may_train_on_other_molecules_and_test_on_the_same(molecules: Molecules) -> None:
    small = {"train_size": 60, "validation_size": 20, "test_size": 30}
    winner = WINNER.model_copy(
        update={"config": WINNER.config.model_copy(update={"data": DataConfig(**small)})}
    )
    plan = AblationPlan.make(winner, targets=["mu"], repeats=3, vary_split=True)
    splits = [make_split(molecules, plan.data_of(repeat)) for repeat in range(3)]
    assert plan.data_of(0) == plan.data
    assert len({split.hash for split in splits}) == 3
    for split in splits:
        assert np.array_equal(split.test, splits[0].test)
        assert (len(split.train), len(split.validation)) == (60, 20)
        every = np.concatenate([split.train, split.validation, split.test])
        assert len(np.unique(every)) == 110
    assert make_split(molecules, plan.data_of(1)).hash == splits[1].hash


def test_with_a_split_file_its_own_molecules_are_drawn_anew(
    molecules: Molecules, tmp_path: Path
) -> None:
    data = DataConfig(train_size=60, validation_size=20, test_size=30)
    given = make_split(molecules, data)
    save_split(given, molecules, tmp_path / "split.json")
    redrawn = make_split(
        molecules, DataConfig(split_file=str(tmp_path / "split.json"), training_seed=5)
    )
    assert set(redrawn.test) == set(given.test)
    pool = {*given.train, *given.validation}
    assert {*redrawn.train, *redrawn.validation} == pool
    assert set(redrawn.train) != set(given.train)


def test_a_configuration_without_it_keeps_its_fingerprint() -> None:
    assert "training_seed" not in WINNER.config.to_dict()["data"]
    config = TrialConfig.from_dict(
        {**WINNER.config.to_dict(), "data": {"train_size": 100, "training_seed": 3}}
    )
    assert config.to_dict()["data"]["training_seed"] == 3
    assert TrialConfig.from_dict(config.to_dict()) == config
