"""The count of weights against the networks themselves."""

from __future__ import annotations

import optuna
import pytest

from hpsearch.ablation import VARIANTS
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.space import SearchSpace
from hpsearch.nn import MultiTargetNetwork
from hpsearch.system.installation import find_space


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
