"""Small networks that are trained for a moment, for models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.config.targets import SYMBOLS
from hpsearch.data.molecule import Molecules

NETWORK = NetworkConfig(
    embedding_size=8,
    featurization_scalars=6,
    featurization_vectors=2,
    featurization_blocks=1,
    radial_basis="cosine",
    radial_functions=12,
    radial_maximum_angstrom=4.0,
    radial_mlp_layers=1,
    radial_mlp_neurons=8,
    output_mlp_layers=1,
    output_mlp_neurons=8,
)
DATA = DataConfig(train_size=300, validation_size=100, test_size=120)
TARGETS = ("mu", "U0")


def config(seed: int, targets: tuple[str, ...] = TARGETS) -> TrialConfig:
    training = TrainingConfig(batch_size=30, learning_rate=0.01, epochs=2, seed=seed)
    return TrialConfig(targets=targets, network=NETWORK, training=training, data=DATA)


def write_extxyz(molecules: Molecules, rows: NDArray[Any], path: Path) -> Path:
    """Write molecules as a user would have them, without labels."""
    lines = []
    for row in rows:
        molecule = molecules.molecule(int(row))
        lines += [str(len(molecule.atomic_numbers)), "Properties=species:S:1:pos:R:3"]
        for number, position in zip(molecule.atomic_numbers, molecule.positions, strict=True):
            lines.append(f"{SYMBOLS[number]} {' '.join(f'{x:.9f}' for x in position)}")
    path.write_text("\n".join(lines) + "\n")
    return path
