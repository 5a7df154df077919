"""The configuration of one run: the network, its training and its data.

A configuration is checked once, when it is read or sampled, and cannot change afterwards. Its
dumped form is nested JSON of plain values, so Ray, SQL and YAML pass it on unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hpsearch.config.targets import canonical_targets
from hpsearch.errors import InputError

Config = TypeVar("Config", bound=BaseModel)

RadialBasisName = Literal["cosine", "gaussian", "bessel"]
ScheduleName = Literal["plateau", "cosine", "constant_cooldown"]


class Strict(BaseModel):
    """A model read from a file: no unknown keys, no conversion from text, no NaN, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


class NetworkConfig(Strict):
    """The multi-target network of section 4.3; every row of Table 3 that describes the network.

    Attributes:
        embedding_size: scalars of the element embedding.
        featurization_scalars: scalar features (l = 0) of every featurization block.
        featurization_vectors: vector features (l = 1) of every featurization block.
        featurization_blocks: convolution & gated blocks before the output blocks.
        residual: whether a featurization block's input is added to its output, if their widths
            agree.
        radial_basis: ``cosine`` (Eq. 2), ``gaussian`` (SchNet) or ``bessel`` (DimeNet).
        radial_functions: number of radial basis functions.
        radial_maximum_angstrom: largest distance at which a pair of atoms interacts, in Å.
        radial_mlp_layers: hidden layers of the radial MLP.
        radial_mlp_neurons: width of each hidden layer of the radial MLP.
        output_blocks: convolution & gated blocks in each output block.
        output_scalars: scalars between two convolutions of an output block; 0 with one block.
        output_vectors: vectors between two convolutions of an output block; 0 with one block.
        output_mlp_layers: atom-wise layers after the convolutions; the last one emits one scalar.
        output_mlp_neurons: scalars of the last convolution and of the hidden atom-wise layers.
        softplus_beta: sharpness of the softplus activations; not searched in the paper.
    """

    embedding_size: PositiveCount
    featurization_scalars: Count
    featurization_vectors: Count
    featurization_blocks: PositiveCount
    residual: bool = True
    radial_basis: RadialBasisName
    radial_functions: Annotated[int, Field(ge=2)]
    radial_maximum_angstrom: Annotated[float, Field(gt=0)]
    radial_mlp_layers: PositiveCount
    radial_mlp_neurons: PositiveCount
    output_blocks: PositiveCount = 1
    output_scalars: Count = 0
    output_vectors: Count = 0
    output_mlp_layers: PositiveCount
    output_mlp_neurons: PositiveCount
    softplus_beta: Annotated[float, Field(gt=0)] = 5.0

    @model_validator(mode="after")
    def _features_exist(self) -> NetworkConfig:
        if self.featurization_scalars + self.featurization_vectors == 0:
            raise ValueError("featurization_scalars and featurization_vectors must not both be 0")
        between = self.output_scalars + self.output_vectors
        if self.output_blocks > 1 and between == 0:
            raise ValueError(
                "output_scalars and output_vectors must not both be 0 with more than one output "
                "convolution"
            )
        if self.output_blocks == 1 and between > 0:
            raise ValueError(
                "output_scalars and output_vectors must be 0 with a single output convolution, "
                "which emits output_mlp_neurons scalars"
            )
        return self


class TrainingConfig(Strict):
    """How a network is trained (section 2.1).

    Attributes:
        batch_size: molecules per step.
        learning_rate: Adam's initial learning rate.
        epochs: maximum number of epochs.
        schedule: ``plateau``, ``cosine`` or ``constant_cooldown``. ``plateau`` is the paper's: the
            learning rate is multiplied by ``plateau_factor`` after ``plateau_patience`` epochs
            without a lower validation loss. ``cosine`` warms up over the first twentieth of the
            steps and then follows a half cosine to ``minimum_learning_rate``; it suits short runs.
            ``constant_cooldown`` warms up over half an epoch, stays at the learning rate, and falls
            to ``minimum_learning_rate`` in the last fifth of the epochs. Before that it does not
            depend on ``epochs``, so trials can be compared early.
        plateau_factor: factor on the learning rate at a plateau.
        plateau_patience: epochs without improvement before the factor applies.
        minimum_learning_rate: lowest learning rate of all schedules.
        early_stopping_patience: epochs without improvement after which training ends.
        seed: seed of the initial weights and of the order of the molecules.
    """

    batch_size: PositiveCount
    learning_rate: Annotated[float, Field(gt=0)]
    epochs: PositiveCount = 200
    schedule: ScheduleName = "plateau"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_patience: Count = 5
    minimum_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    early_stopping_patience: PositiveCount = 50
    seed: Count = 0


class DataConfig(Strict):
    """The split into training, validation and test molecules.

    Attributes:
        train_size: number of training molecules.
        validation_size: number of validation molecules, on which the best epoch and the winner are
            chosen.
        test_size: number of test molecules; ``None`` takes all that follow the validation
            molecules in the permutation: 20,831 with the default sizes.
        split_seed: seed of the random permutation from which the three sets are cut.
        split_file: JSON file with three lists of QM9 indices, instead of a random split. The sizes
            and the seed then stay at their defaults.
        training_seed: if set, the training and validation molecules are drawn again from all
            molecules outside the test set, with this seed. With ``--vary-split``, an ablation's
            repeats differ in it.
    """

    train_size: Annotated[int, Field(ge=2)] = 109_000
    validation_size: PositiveCount = 1_000
    test_size: PositiveCount | None = None
    split_seed: Count = 0
    split_file: str | None = None
    # Not dumped unless set, so that older configurations keep their fingerprint.
    training_seed: Annotated[Count | None, Field(exclude_if=lambda seed: seed is None)] = None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.split_file is None:
            return self
        for name in ("train_size", "validation_size", "test_size", "split_seed"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} must be left out if split_file is given, which lists the molecules, "
                    f"got {value}; delete one"
                )
        return self

    def with_absolute_split_file(self, folder: Path) -> DataConfig:
        """The same with an absolute ``split_file``; a relative one lies in ``folder``.

        A worker in another working folder or on another machine then opens the same file.
        """
        if self.split_file is None or Path(self.split_file).is_absolute():
            return self
        return self.model_copy(update={"split_file": str(folder.resolve() / self.split_file)})


class TrialConfig(Strict):
    """The complete configuration of one run.

    Attributes:
        targets: names of the targets in Table 1's order; every target has its own output block.
        network: the architecture.
        training: the optimisation.
        data: the molecules.
    """

    targets: tuple[str, ...]
    network: NetworkConfig
    training: TrainingConfig
    data: DataConfig = DataConfig()

    @field_validator("targets", mode="before")
    @classmethod
    def _known_targets(cls, names: object) -> tuple[str, ...]:
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ValueError("targets must be a list of names")
        try:
            return canonical_targets(names)
        except InputError as error:
            raise ValueError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested JSON; :meth:`from_dict` is the inverse."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrialConfig:
        """The configuration from the output of :meth:`to_dict`.

        Raises:
            pydantic.ValidationError: a key or value is not allowed.
        """
        return cls.model_validate(values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return fingerprint(self.to_dict())


def fingerprint(values: Any) -> str:
    """The SHA-256 (hex) of ``values`` as canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# A configuration with changes ---------------------------------------------------------------------


def rebuild(config: Config, **changes: object) -> Config:
    """``config`` with ``changes``, validated again, which pydantic's ``model_copy`` would not."""
    return _rebuilt(config, changes, str)


def rebuild_by_options(config: Config, changes: Mapping[str, object]) -> Config:
    """As :func:`rebuild` with the values of a command's options; errors name the option.

    Raises:
        InputError: a value is not allowed.
    """
    return _rebuilt(config, changes, option)


def option(field: str) -> str:
    """The command-line option for a field: ``--train-size`` for ``train_size``."""
    return f"--{field.replace('_', '-')}"


def _rebuilt(config: Config, changes: Mapping[str, object], shown: Callable[[str], str]) -> Config:
    try:
        return type(config).model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(shown(str(part)) for part in first["loc"]) or type(config).__name__
        message = first["msg"].replace("Input should be", "must be")
        raise InputError(f"{where} {message}; got {first['input']!r}") from None


@dataclass(frozen=True)
class Overrides:
    """The values that a command's options set; ``None`` changes nothing.

    An option only changes objects with a field of its name. A search space has ``trials`` and
    ``sampler``; an exported configuration does not.
    """

    trials: int | None = None
    sampler: str | None = None
    epochs: int | None = None
    schedule: ScheduleName | None = None
    plateau_patience: int | None = None
    early_stopping_patience: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    split_seed: int | None = None

    def given(self, names: Iterable[str]) -> dict[str, Any]:
        """The given options among ``names``, in the order of this class."""
        wanted = set(names)
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: v for name, v in options.items() if v is not None and name in wanted}

    def given_for(self, data: DataConfig) -> dict[str, Any]:
        """The given options that change the molecules.

        Raises:
            InputError: there are such options and a split file, which would override them.
        """
        given = self.given(type(data).model_fields)
        if data.split_file is not None and given:
            name, value = next(iter(given.items()))
            raise InputError(
                f"{option(name)} must be left out, because the split file '{data.split_file}' "
                f"lists the molecules; got {value}"
            )
        return given

    def apply(self, config: Config) -> Config:
        """``config`` with the options for which it has a field.

        Raises:
            InputError: a value is not allowed, or the split file excludes it.
        """
        if isinstance(config, DataConfig):
            return rebuild_by_options(config, self.given_for(config))
        return rebuild_by_options(config, self.given(type(config).model_fields))

    def apply_to_run(self, config: TrialConfig, targets: Iterable[str] = ()) -> TrialConfig:
        """``config`` with the options, and with ``targets`` if there are any.

        Raises:
            InputError: a value or a name is not allowed.
        """
        return TrialConfig(
            targets=canonical_targets(tuple(targets) or config.targets),
            network=config.network,
            training=self.apply(config.training),
            data=self.apply(config.data),
        )


NO_OVERRIDES = Overrides()
"""Changes nothing."""
