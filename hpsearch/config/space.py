"""Search spaces: from a YAML file to the configuration of every trial.

A space is checked completely when it is read. Every sample is then a valid
:class:`~hpsearch.config.run.TrialConfig`, so no trial fails because of a wrong range.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from hpsearch.config.declaration import Strict
from hpsearch.config.parameters import (
    LARGEST,
    PARTS,
    TRAINING_FIELDS,
    Parameter,
    draw_order,
    widths,
)
from hpsearch.config.run import (
    DataConfig,
    NetworkConfig,
    Overrides,
    TrainingConfig,
    TrialConfig,
    fingerprint,
    known_targets,
    option,
    without_fractions,
)
from hpsearch.config.rungs import Rungs, default_rungs
from hpsearch.config.space_check import check, check_rungs, schedules
from hpsearch.config.start import Start, find_starts
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import Document, parse_yaml, read_yaml
from hpsearch.system.errors import InputError

if TYPE_CHECKING:
    import optuna

SamplerName = Literal["random", "tpe", "gp", "qmc"]


REFUSALS = 1_000
"""A launch ends after this many samples in a row over the budget: almost none would fit."""

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(text: str) -> int:
    """The bytes of a text such as ``1.5 GB``.

    Raises:
        ValueError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"must be a size such as '8 GB', in one of {', '.join(_UNITS)}")
    return int(float(match[1]) * _UNITS[match[2]])


def _size(text: str) -> str:
    if parse_bytes(text) < 1:
        raise ValueError("must be above 0")
    return text


class Budget(Strict):
    """Limits of a trial; ``None`` means no limit.

    Attributes:
        max_parameters: limit of trainable weights, all output blocks included.
        max_memory: limit of the worker's memory, as text such as ``8 GB``.
        max_epoch_seconds: limit of an epoch's seconds, evaluation included.
    """

    max_parameters: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    max_memory: Annotated[str, AfterValidator(_size)] | None = None
    max_epoch_seconds: Annotated[float, Field(gt=0)] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a limit needs a measurement on this machine."""
        return self.max_memory is not None or self.max_epoch_seconds is not None

    def refusal(self, weights: int, cost: Callable[[], tuple[int, float]]) -> str | None:
        """The reason why a configuration exceeds the budget, or ``None`` if it does not.

        Args:
            weights: weights of its network.
            cost: returns its bytes of memory and seconds per epoch; called only if one is limited.
        """
        if self.max_parameters is not None and weights > self.max_parameters:
            return f"{weights:,} weights, max_parameters is {self.max_parameters:,}"
        if not self.is_measured:
            return None
        memory, seconds = cost()
        if self.max_memory is not None and memory > parse_bytes(self.max_memory):
            return f"about {memory / 1e9:.2f} GB, max_memory is {self.max_memory}"
        if self.max_epoch_seconds is not None and seconds > self.max_epoch_seconds:
            return (
                f"about {seconds:.3g} s an epoch, max_epoch_seconds is {self.max_epoch_seconds:g}"
            )
        return None

    @model_serializer(mode="plain")
    def _without_none(self) -> dict[str, int | str | float]:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in given.items() if value is not None}


def _list_of_names(names: object) -> object:
    """A single name means a list of one."""
    return [names] if isinstance(names, str) else names


def _known_target(name: str, info: ValidationInfo) -> str:
    known_targets([name], info)
    return name


_Targets = Annotated[
    tuple[Annotated[str, AfterValidator(_known_target)], ...],
    Field(strict=False),
    BeforeValidator(_list_of_names),
]


class SearchSpace(Strict):
    """The searched parameters and the fixed values of a search; read with :meth:`load`.

    Attributes:
        version: version of the file format.
        name: name of the space, and default name of its study.
        description: free text; it does not enter the hash.
        trials: number of trials to finish.
        sampler: ``random``, ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process)
            or ``qmc`` (quasi-Monte Carlo).
        startup_trials: random trials before ``tpe`` or ``gp`` use results; others ignore it.
        seed: seed of the sampler; with the trial's number also the seed of a trial's training.
        targets: names of the targets, which one network learns together.
        network: fixed values of the network, by field.
        training: fixed values of the training, by field.
        data: the molecules.
        budget: limits of a trial; samples that exceed it are not trained.
        rungs: when trials pause, and which go on; ``None`` trains every trial to its end.
        start_with: known configurations that are the first trials; they do not enter the hash.
        parameters: the searched parameters.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    description: str = ""
    trials: Annotated[int, Field(ge=1, le=LARGEST)]
    sampler: SamplerName
    startup_trials: Annotated[int, Field(ge=1, le=LARGEST)] = 10
    seed: Annotated[int, Field(ge=0, le=LARGEST)]
    # The data comes first, because it declares the targets.
    data: DataConfig
    targets: _Targets
    network: dict[str, Any]
    training: dict[str, Any]
    # Not dumped unless set, so that older spaces keep their hash.
    budget: Annotated[Budget | None, Field(exclude_if=lambda budget: budget is None)] = None
    rungs: Annotated[Rungs | None, Field(exclude_if=lambda rungs: rungs is None)] = None
    start_with: Annotated[
        tuple[Start, ...], Field(strict=False, exclude_if=lambda starts: not starts)
    ] = ()
    parameters: dict[str, Annotated[Parameter, Field(discriminator="type")]]
    _text: str = PrivateAttr("")

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return known_targets(names, info)

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """The space in the file at ``path``; its folder is that of a relative ``split_file``.

        Raises:
            InputError: the file is not a space, or could give an invalid configuration.
        """
        space, folder = cls._read(read_yaml(path)), Path(path).parent
        return space.model_copy(
            update={
                "data": space.data.in_folder(folder),
                "start_with": find_starts(folder, space.start_with),
            }
        )

    @classmethod
    def parse(cls, text: str, source: str) -> SearchSpace:
        """The space in ``text``, the content of the file called ``source``.

        Raises:
            InputError: as in :meth:`load`.
        """
        return cls._read(parse_yaml(text, source))

    @classmethod
    def _read(cls, document: Document) -> SearchSpace:
        if isinstance(kind := document.data.get("format"), str) and "winner" in kind:
            raise document.error(
                ("format",),
                "the file must be a search space, got an exported configuration; "
                "use it with ablate or train",
                key=True,
            )
        space = validate(cls, document)
        check(space.network, space.training, space.parameters, document)
        if space.rungs is not None:
            check_rungs(space.rungs, space.training, space.parameters, document)
        space._text = document.text
        return space

    @property
    def text(self) -> str:
        """The text of the file, comments included; overrides do not change it."""
        return self._text

    @property
    def hash(self) -> str:
        """SHA-256 of the content without comments, order of keys, description and start_with."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def early_stopping(self) -> Rungs | None:
        """The rungs of this space, the default ones included; ``None`` if no trial pauses."""
        if self.rungs is None or not self.rungs.default:
            return self.rungs
        return default_rungs(self.training["epochs"], schedules(self.training, self.parameters))

    @cached_property
    def draw_order(self) -> list[str]:
        """The names of the searched parameters in the order in which they are sampled."""
        return draw_order(self.parameters)

    def suggest(self, trial: optuna.trial.BaseTrial) -> TrialConfig:
        """The configuration of ``trial``, with parameters from the study's sampler.

        A parameter whose condition does not hold is not sampled, so the study stores only
        parameters with an effect. The order of sampling does not depend on the order in the file.
        """
        values: dict[str, Any] = {**self.network, **self.training}
        for name in self.draw_order:
            parameter = self.parameters[name]
            if parameter.holds(values):
                values[name] = parameter.suggest(trial, name)
            elif parameter.otherwise is not None:
                values[name] = parameter.otherwise
        for part in PARTS:
            values |= widths(part, values)
        return TrialConfig(
            targets=self.targets,
            network=NetworkConfig(**_fields_of(values, NetworkConfig)),
            training=TrainingConfig(
                **_fields_of(values, TrainingConfig), seed=self.training_seed(trial.number)
            ),
            data=self.data,
        )

    def training_seed(self, number: int) -> int:
        """The seed of the weights and batches of trial ``number``; the same on every machine."""
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        return int.from_bytes(digest[:4], "big") & LARGEST

    def with_data(self, data: DataConfig) -> SearchSpace:
        """This space for the molecules and all targets of ``data``."""
        names = data.all_targets.names
        return self.model_copy(update={"data": data, "targets": names})

    def resolved(self, total: int, elements: tuple[int, ...]) -> SearchSpace:
        """This space with sizes and elements from the molecules; see `DataConfig.resolved`."""
        return self.model_copy(update={"data": self.data.resolved(total, elements)})

    def with_overrides(
        self, *, targets: Sequence[str] | None = None, **options: Any
    ) -> SearchSpace:
        """This space with values from a command; ``None`` means the file's value.

        Args:
            targets: names of the targets.
            options: fields of :class:`~hpsearch.config.run.Overrides`. A searched parameter among
                them becomes fixed.

        Raises:
            InputError: a value is not allowed; the message names the command's option.
        """
        overrides = Overrides(**options)
        top = overrides.given(type(self).model_fields)
        if targets is not None:
            top["targets"] = list(targets)
        data = overrides.given_for(self.data)
        training = overrides.given(TRAINING_FIELDS)
        content = self.model_dump(mode="json") | top
        content["data"] = without_fractions(content["data"], data) | data
        content["training"] |= training
        for name in training:
            content["parameters"].pop(name, None)
        places = {
            **{name: name for name in top},
            **{f"data.{name}": name for name in data},
            **{f"training.{name}": name for name in training},
        }
        source = f"{self.name} with overrides"
        try:
            return self._read(Document(source, content, self.text))
        except InputError as error:
            message = str(error).removeprefix(f"{source}: ")
            raise InputError(_by_option(message, places)) from None

    def to_provenance(self) -> dict[str, Any]:
        """The record that a study stores; :meth:`from_provenance` is the inverse."""
        return {"hash": self.hash, "content": self.model_dump(mode="json"), "text": self.text}

    @classmethod
    def from_provenance(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space from the output of :meth:`to_provenance`.

        Raises:
            InputError: the record is damaged, or invalid for this version.
        """
        content, text = values.get("content"), values.get("text")
        if not isinstance(content, dict) or not isinstance(text, str):
            raise InputError("a stored space must have content and text; start a new study")
        if content_hash(content) != values.get("hash"):
            raise InputError(
                "a stored space must match its stored hash, got another: the space was changed in "
                "the store; start a new study"
            )
        return cls._read(Document("the stored space", content, text))


_NOT_HASHED = ("description", "start_with")
"""Keys of a space that do not change what its trials may be."""


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of a space's content as JSON, without description and start_with."""
    return fingerprint({key: value for key, value in content.items() if key not in _NOT_HASHED})


def _by_option(message: str, places: Mapping[str, str]) -> str:
    """``message`` with the name of the option in place of the field at its beginning."""
    field = re.match(r"[\w.]*", message)[0]  # type: ignore[index]
    if field not in places:
        return message
    return option(places[field]) + re.sub(r"^\[\d+\]", "", message[len(field) :])


def _fields_of(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: values[name] for name in model.model_fields if name in values}
