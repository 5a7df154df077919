"""The configuration of one run: the network, its training and its data.

A configuration is checked once, when it is read or sampled, and cannot change afterwards. Its
dumped form is nested JSON of plain values, so Ray, SQL and YAML pass it on unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from hpsearch.config.declaration import Declaration, Strict
from hpsearch.config.targets import QM9_TARGETS, SYMBOLS, Targets
from hpsearch.system.errors import InputError

Config = TypeVar("Config", bound=BaseModel)

RadialBasisName = Literal["cosine", "gaussian", "bessel"]
ScheduleName = Literal["plateau", "cosine", "constant_cooldown"]


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


Fraction = Annotated[float, Field(gt=0, lt=1)]


class Fractions(Strict):
    """Sizes of the three sets as parts of all molecules; ``None`` where a number is given."""

    train: Fraction | None = None
    validation: Fraction | None = None
    test: Fraction | None = None

    @model_validator(mode="after")
    def _fit(self) -> Fractions:
        total = sum(part or 0.0 for part in (self.train, self.validation, self.test))
        if total > 1 + 1e-9:
            raise ValueError(f"must sum to at most 1, got {total:g}")
        return self

    @model_serializer(mode="plain")
    def _given(self) -> dict[str, float]:
        return {name: part for name in type(self).model_fields if (part := getattr(self, name))}


OWN_FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""The default sizes for own molecules."""

_SIZES = {"train": "train_size", "validation": "validation_size", "test": "test_size"}


class DataConfig(Declaration):
    """The molecules and the split into training, validation and test molecules.

    Attributes:
        train_size: number of training molecules.
        validation_size: number of validation molecules, on which the best epoch and the winner are
            chosen.
        test_size: number of test molecules; ``None`` takes all that follow the validation
            molecules in the permutation: 20,831 with the default sizes.
        split_seed: seed of the random permutation from which the three sets are cut.
        split_file: JSON file with three lists of identifiers, instead of a random split. The sizes
            and the seed then stay at their defaults.
        training_seed: if set, the training and validation molecules are drawn again from all
            molecules outside the test set, with this seed. With ``--vary-split``, an ablation's
            repeats differ in it.
        fractions: sizes as parts of all molecules, until :meth:`resolved` turns them into numbers.
        split_by: ``group`` keeps the molecules of a group on one side of the split, ``molecule``
            does not. By default it is ``group`` if the source names a column of groups.
    """

    train_size: Annotated[int, Field(ge=2)] = 109_000
    validation_size: PositiveCount = 1_000
    test_size: PositiveCount | None = None
    split_seed: Count = 0
    split_file: str | None = None
    # Not dumped unless set, so that older configurations keep their fingerprint.
    training_seed: Annotated[Count | None, Field(exclude_if=lambda seed: seed is None)] = None
    fractions: Annotated[Fractions | None, Field(exclude_if=lambda v: v is None)] = None
    split_by: Annotated[
        Literal["group", "molecule"] | None, Field(exclude_if=lambda v: v is None)
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _sizes_in_any_form(cls, value: object) -> object:
        return _flat_sizes(dict(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.split_by == "group" and (self.molecules is None or self.molecules.group is None):
            raise ValueError(
                "split_by: group needs the name of the column with the groups: "
                "molecules: {path: ..., group: NAME}"
            )
        if self.split_file is None:
            return self
        for name in ("train_size", "validation_size", "test_size", "split_seed", "split_by"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} must be left out if split_file is given, which lists the molecules, "
                    f"got {value}; delete one"
                )
        return self

    @property
    def by_group(self) -> bool:
        """Whether the molecules of a group stay on one side of the split."""
        has_groups = self.molecules is not None and self.molecules.group is not None
        return has_groups and self.split_by != "molecule"

    def resolved(self, total: int, elements: tuple[int, ...]) -> DataConfig:
        """The same with numbers in place of fractions, and with the elements of the molecules.

        Args:
            total: number of molecules.
            elements: their atomic numbers, in the order of the one-hot input.
        """
        changes: dict[str, Any] = {}
        if self.is_own:
            changes["elements"] = [SYMBOLS[number] for number in elements]
        if self.fractions is not None:
            # A small number of molecules still needs 2 training, 1 validation and 1 test molecule.
            for part, least in (("train", 2), ("validation", 1), ("test", 1)):
                fraction = getattr(self.fractions, part)
                if fraction is not None:
                    changes[_SIZES[part]] = max(least, int(fraction * total + 1e-9))
            changes["fractions"] = None
        return rebuild(self, **changes) if changes else self

    @classmethod
    def read(cls, path: Path) -> DataConfig:
        """The ``data`` section of the file at ``path``.

        The file may be a declaration alone, a search space or an exported configuration.

        Raises:
            InputError: the file cannot be read, or its section is not valid.
        """
        from hpsearch.config.yaml_errors import validate
        from hpsearch.config.yaml_file import read_yaml

        document = read_yaml(path)
        place = ("config", "data") if isinstance(document.data.get("config"), dict) else ("data",)
        if not isinstance(document.at(place[:-1]).get("data"), dict):
            raise document.error(
                (), "the file must have a data section, such as data: {molecules: mine.extxyz, ...}"
            )
        return validate(cls, document, place).in_folder(path.parent)

    def in_folder(self, folder: Path) -> DataConfig:
        """The same with absolute paths; relative ones start at ``folder``.

        A worker in another working folder or on another machine then opens the same files.
        """
        changes: dict[str, Any] = {}
        if self.split_file is not None and not Path(self.split_file).is_absolute():
            changes["split_file"] = str(folder.resolve() / self.split_file)
        if self.molecules is not None:
            changes["molecules"] = self.molecules.in_folder(folder)
        return self.model_copy(update=changes) if changes else self


def _flat_sizes(data: dict[str, Any]) -> dict[str, Any]:
    """Move ``split`` and fractions to the fields of :class:`DataConfig`.

    Raises:
        ValueError: a size is given twice, or ``split`` is not a mapping of its keys.
    """
    fractions: dict[str, Any] = {}
    if isinstance(given := data.get("fractions"), dict):
        fractions = dict(given)
    if "split" in data:
        split = data.pop("split")
        keys = {**_SIZES, "seed": "split_seed", "file": "split_file", "by": "split_by"}
        if not isinstance(split, dict):
            raise ValueError(f"split must be a mapping with some of {', '.join(keys)}")
        for key, value in split.items():
            if key not in keys:
                raise ValueError(f"split must have only the keys {', '.join(keys)}, got '{key}'")
            if keys[key] in data:
                raise ValueError(f"{keys[key]} must be given once, got it beside split.{key}")
            data[keys[key]] = value
    for part, name in _SIZES.items():
        if isinstance(data.get(name), float):
            fractions[part] = data.pop(name)
    is_own = data.get("molecules") is not None
    if is_own and data.get("split_file") is None and "fractions" not in data:
        for part, fraction in OWN_FRACTIONS.items():
            if _SIZES[part] not in data:
                fractions.setdefault(part, fraction)
    if fractions:
        data["fractions"] = fractions
    return data


def without_fractions(data: dict[str, Any], sizes: Collection[str]) -> dict[str, Any]:
    """The dumped ``data`` without the fractions for which ``sizes`` names a number."""
    kept = {
        part: value
        for part, value in data.get("fractions", {}).items()
        if _SIZES[part] not in sizes
    }
    rest = {name: value for name, value in data.items() if name != "fractions"}
    return rest | {"fractions": kept} if kept else rest


class TrialConfig(Strict):
    """The complete configuration of one run.

    Attributes:
        targets: names of the targets in Table 1's order; every target has its own output block.
        network: the architecture.
        training: the optimisation.
        data: the molecules.
    """

    # The data comes first, because it declares the targets.
    data: DataConfig = DataConfig()
    targets: tuple[str, ...]
    network: NetworkConfig
    training: TrainingConfig

    @field_validator("targets", mode="before")
    @classmethod
    def _known_targets(cls, names: object, info: ValidationInfo) -> tuple[str, ...]:
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ValueError("targets must be a list of names")
        return known_targets(names, info)

    @property
    def target_table(self) -> Targets:
        """The targets of this run, in the order of the network's outputs."""
        known = self.data.all_targets
        return Targets(known[name] for name in self.targets)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested JSON; :meth:`from_dict` is the inverse."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name in ("targets", "network", "training", "data")}

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


def known_targets(names: Iterable[str], info: ValidationInfo) -> tuple[str, ...]:
    """``names`` in the order of the declared targets, for a validator of a later field.

    Raises:
        ValueError: a name is unknown.
    """
    if "data" not in info.data:
        # The data section is wrong, and that is the error to show.
        return tuple(names)
    data = info.data["data"]
    try:
        return (data.all_targets if data is not None else QM9_TARGETS).canonical(names)
    except InputError as error:
        raise ValueError(str(error)) from None


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
            given = self.given_for(config)
            kept = without_fractions(config.model_dump(mode="json"), given).get("fractions")
            return rebuild_by_options(config, given | {"fractions": kept})
        return rebuild_by_options(config, self.given(type(config).model_fields))

    def apply_to_run(self, config: TrialConfig, targets: Iterable[str] = ()) -> TrialConfig:
        """``config`` with the options, and with ``targets`` if there are any.

        Raises:
            InputError: a value or a name is not allowed.
        """
        return TrialConfig(
            targets=config.data.all_targets.canonical(tuple(targets) or config.targets),
            network=config.network,
            training=self.apply(config.training),
            data=self.apply(config.data),
        )


NO_OVERRIDES = Overrides()
"""Changes nothing."""
