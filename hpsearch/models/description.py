"""What the file model.json of a model's folder says.

Everything about the model is in this one file, except the numbers of its weights. Its digest
covers all of it, and it names the hash of the weights. So an edit by hand is noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hpsearch.config.declaration import Strict
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig
from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.models.intervals import Calibration
from hpsearch.models.ranges import TrainingRanges
from hpsearch.system.errors import InputError, one_line

FORMAT: Literal["hpsearch-model/1"] = "hpsearch-model/1"

FILE_NAME = "model.json"
"""The file of the description in the folder of a model."""


class Origin(Strict):
    """The run that trained a network.

    Attributes:
        kind: ``study``, ``ablation`` or ``train``.
        experiment: name of the study or the ablation, or of the folder.
        key: of the run: number of the trial, or ``variant/target/repeat``.
        fingerprint: of the run's configuration.
        epoch: of the weights.
        epoch_digest: digest of this epoch in the store; ``None`` in runs from before digests.
    """

    kind: Literal["study", "ablation", "train"]
    experiment: str
    key: str
    fingerprint: str
    epoch: int
    epoch_digest: str | None = None


class Network(Strict):
    """One network of a model.

    Attributes:
        config: its architecture.
        training: how it was trained.
        targets: the names of its outputs, in their order.
        statistics: shift and scale of its outputs (Eqs 14 to 16).
        origin: the run that trained it.
    """

    config: NetworkConfig
    training: TrainingConfig
    targets: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    statistics: dict[str, Any]
    origin: Origin


class Tested(Strict):
    """What the model does on the test molecules, by target.

    Attributes:
        molecules: number of test molecules with a known value.
        mae: mean absolute error in the reporting unit.
        coverage: part of them inside the interval, by level in percent.
        by_size: for each group of sizes: least and most atoms, molecules, MAE, coverage at 95 %.
    """

    molecules: int
    mae: float
    coverage: dict[str, float]
    by_size: Annotated[tuple[dict[str, float], ...], Field(strict=False)] = ()


class Description(Strict):
    """The content of model.json.

    Attributes:
        format: of the folder.
        name: of the model.
        created: ISO 8601, UTC.
        elements: symbols, in the order of the one-hot input.
        data: the molecules that it was trained on, their targets and their split.
        networks: one or more; several with the same target are an ensemble.
        ranges: of the training molecules.
        calibration: of the intervals.
        tested: by target.
        data_hash: hash of the molecules' content.
        split_hash: hash of the three sets.
        weights_hash: SHA-256 of the file of the weights.
        code: versions and commit of the code that made the model.
        digest: SHA-256 of everything above.
    """

    format: Literal["hpsearch-model/1"] = FORMAT
    name: str
    created: str
    elements: Annotated[tuple[str, ...], Field(strict=False)]
    data: DataConfig
    networks: Annotated[tuple[Network, ...], Field(strict=False, min_length=1)]
    ranges: TrainingRanges
    calibration: Calibration
    tested: dict[str, Tested]
    data_hash: str
    split_hash: str
    weights_hash: str = ""
    code: dict[str, Any]
    digest: str = ""

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """The atomic numbers of its elements, in the order of the one-hot input."""
        return tuple(SYMBOLS.index(symbol) for symbol in self.elements)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that it predicts, in the order of the molecules' targets."""
        predicted = {name for network in self.networks for name in network.targets}
        return tuple(target for target in self.data.all_targets if target.name in predicted)

    def signed(self, weights_hash: str) -> Description:
        """Return the same with the hash of the weights and the digest."""
        unsigned = self.model_copy(update={"weights_hash": weights_hash, "digest": ""})
        return unsigned.model_copy(update={"digest": unsigned.computed_digest()})

    def computed_digest(self) -> str:
        """Return the digest of everything but the digest."""
        content = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def require_free(output: Path, overwrite: bool = False) -> None:
    """Refuse a folder with files as that of a new model.

    Args:
        output: the folder.
        overwrite: whether it may have a model.

    Raises:
        InputError: the folder has files.
    """

    if output.is_dir() and any(output.iterdir()) and not overwrite:
        is_model = (output / FILE_NAME).exists()
        raise InputError(
            f"the folder of a new model must be empty, got {one_line(str(output))} with "
            f"{'a model' if is_model else 'files'} in it; choose another folder"
            + (", or add --overwrite" if is_model else "")
        )
