"""An exported configuration whose numbers are made up."""

from hpsearch.config.export import MeanAbsoluteError, Provenance, Winner
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.config.targets import TARGET_NAMES, TARGETS


def make_winner(study: str = "quick", *, split_file: str | None = None) -> Winner:
    config = TrialConfig(
        targets=TARGET_NAMES,
        network=NetworkConfig(
            embedding_size=40,
            featurization_scalars=30,
            featurization_vectors=7,
            featurization_blocks=2,
            radial_basis="bessel",
            radial_functions=24,
            radial_maximum_angstrom=5.123456789012345,
            radial_mlp_layers=1,
            radial_mlp_neurons=48,
            output_mlp_layers=2,
            output_mlp_neurons=40,
        ),
        training=TrainingConfig(batch_size=16, learning_rate=0.1 + 0.2, epochs=6, seed=123),
        data=DataConfig(split_file=split_file) if split_file else DataConfig(train_size=1000),
    )
    provenance = Provenance(
        study=study,
        trial=5,
        validation_loss=3.0000000000000004,
        zero_output_loss=12.1,
        validation_maes={t.name: MeanAbsoluteError(mae=1 / 3, unit=t.unit) for t in TARGETS},
        data_hash="0" * 64,
        split_hash="1e5",
        space_name="quick",
        space_hash="ab" * 32,
        versions={"hpsearch": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        created="2025-01-02T03:04:05+00:00",
    )
    return Winner(name=study, config=config, provenance=provenance)
