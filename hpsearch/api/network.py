"""The network of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpsearch.nn import MultiTargetNetwork

if TYPE_CHECKING:
    from hpsearch.config.run import TrialConfig


def build(config: TrialConfig) -> MultiTargetNetwork:
    """Return the untrained network, with the initial weights of its seed.

    A training also calibrates it on some molecules (`MultiTargetNetwork.calibrate`).
    """
    targets = [config.target_table[name] for name in config.targets]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return MultiTargetNetwork(
            config.network,
            len(targets),
            config.data.element_count,
            [target.extensive for target in targets],
        )
