"""Frozen descriptions of one training run: the network, its training and its data.

A configuration is checked where it enters (a sampled trial, an exported file) and read-only ever
after. Dumped, it is nested JSON of plain values, so it travels through Ray, SQL and YAML unchanged.
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
ScheduleName = Literal["plateau", "cosine"]


class Strict(BaseModel):
    """What is read from a file: no unknown keys, no coercion from text, no NaN, no later change."""

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
        residual: add a featurization block's input to its output where the widths agree.
        radial_basis: ``cosine`` (Eq. 2), ``gaussian`` (SchNet) or ``bessel`` (DimeNet).
        radial_functions: number of radial basis functions.
        radial_maximum_angstrom: distance beyond which no pair interacts, in Å.
        radial_mlp_layers: hidden layers of the radial MLP.
        radial_mlp_neurons: width of each hidden layer of the radial MLP.
        output_blocks: convolution & gated blocks in each output block.
        output_scalars: scalars between two convolutions of an output block; 0 with one block.
        output_vectors: vectors between two convolutions of an output block; 0 with one block.
        output_mlp_layers: atom-wise layers after the convolutions, the last one to a single scalar.
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
                "whose output is output_mlp_neurons scalars"
            )
        return self


class TrainingConfig(Strict):
    """How a network is trained (section 2.1).

    Attributes:
        batch_size: molecules a step.
        learning_rate: Adam's initial learning rate.
        epochs: most epochs.
        schedule: ``plateau`` (the paper's: ``plateau_factor`` after ``plateau_patience`` epochs
            without a lower validation loss) or ``cosine`` (a warm-up over the first twentieth of
            the steps, then a half cosine to ``minimum_learning_rate`` over all ``epochs``; suits
            runs too short for a plateau).
        plateau_factor: factor on the learning rate at a plateau.
        plateau_patience: epochs without improvement before the factor applies.
        minimum_learning_rate: where either schedule ends.
        early_stopping_patience: epochs without improvement after which training ends.
        seed: of the weights and of the order of batches.
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
    """Which molecules train, choose and test.

    Attributes:
        train_size: training molecules.
        validation_size: validation molecules, which choose the epoch and the winner.
        test_size: test molecules; ``None`` takes every molecule that lies behind the validation
            molecules in the permutation: 20,831 with the other sizes' defaults.
        split_seed: seed of the random permutation that the three sets are cut from.
        split_file: JSON file with the three lists of QM9 indices, instead of a random split; the
            sizes and the seed stay at their defaults, since the file decides the molecules.
        training_seed: draws the training and validation molecules anew from those that do not test;
            the test molecules stay. What an ablation's repeats differ in with ``--vary-split``.
    """

    train_size: Annotated[int, Field(ge=2)] = 109_000
    validation_size: PositiveCount = 1_000
    test_size: PositiveCount | None = None
    split_seed: Count = 0
    split_file: str | None = None
    # Left out where it is not set: a configuration without it keeps the fingerprint that it had.
    training_seed: Annotated[Count | None, Field(exclude_if=lambda seed: seed is None)] = None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.split_file is None:
            return self
        for name in ("train_size", "validation_size", "test_size", "split_seed"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} must be left out beside split_file, which decides the molecules, "
                    f"got {value}; delete one"
                )
        return self

    def beside(self, file: Path) -> DataConfig:
        """The same with a relative ``split_file`` made absolute, as one that lies beside ``file``.

        A worker of another working folder, or on another machine, then opens the same file.
        """
        if self.split_file is None or Path(self.split_file).is_absolute():
            return self
        return self.model_copy(update={"split_file": str(file.parent.resolve() / self.split_file)})


class TrialConfig(Strict):
    """Everything that decides one training run.

    Attributes:
        targets: names of the targets, each with an output block of its own, in Table 1's order.
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
        """JSON-safe nested dictionary; :meth:`from_dict` is its inverse."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrialConfig:
        """The configuration that :meth:`to_dict` wrote.

        Raises:
            pydantic.ValidationError: a key or value is not allowed.
        """
        return cls.model_validate(values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return fingerprint(self.to_dict())


def fingerprint(values: Any) -> str:
    """SHA-256 (hex) of ``values`` as canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# A configuration with changes ---------------------------------------------------------------------


def rebuild(config: Config, **changes: object) -> Config:
    """``config`` with ``changes``, checked again: a copy alone would skip the validators."""
    return _rebuilt(config, changes, str)


def rebuild_by_options(config: Config, changes: Mapping[str, object]) -> Config:
    """As :func:`rebuild`, for changes that a command's options gave: errors name the option.

    Raises:
        InputError: a value is not allowed.
    """
    return _rebuilt(config, changes, option)


def option(field: str) -> str:
    """The command's option for a configuration's field: ``--train-size`` for ``train_size``."""
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
    """What a command's options change; ``None`` leaves it as it is.

    An option changes what has a field of its name: a search space has ``trials`` and ``sampler``,
    and an exported configuration has not.
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
        """The options among ``names`` that were given, in the order of this class."""
        wanted = set(names)
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: v for name, v in every.items() if v is not None and name in wanted}

    def given_for(self, data: DataConfig) -> dict[str, Any]:
        """The options that change the molecules.

        Raises:
            InputError: there are some beside a split file, which would silently win over them.
        """
        given = self.given(type(data).model_fields)
        if data.split_file is not None and given:
            name, value = next(iter(given.items()))
            raise InputError(
                f"{option(name)} must be left out, since the split file '{data.split_file}' "
                f"decides the molecules; got {value}"
            )
        return given

    def apply(self, config: Config) -> Config:
        """``config`` with the options that it has a field for.

        Raises:
            InputError: a value is not allowed, or is a size or a seed beside a split file.
        """
        if isinstance(config, DataConfig):
            return rebuild_by_options(config, self.given_for(config))
        return rebuild_by_options(config, self.given(type(config).model_fields))

    def apply_to_run(self, config: TrialConfig, targets: Iterable[str] = ()) -> TrialConfig:
        """``config`` with the options, and with ``targets`` where there are any.

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
"""Leaves a configuration as it is."""
