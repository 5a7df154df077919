"""Search spaces: from a YAML file to the configuration of every trial.

A space is checked as a whole when it is read. After that, whatever a sampler draws is a valid
:class:`~hpsearch.config.run.TrialConfig`: no trial is lost to a range that allowed nonsense.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    model_serializer,
)

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
    Strict,
    TrainingConfig,
    TrialConfig,
    fingerprint,
    option,
)
from hpsearch.config.space_check import check
from hpsearch.config.targets import canonical_targets
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import Document, parse_yaml, read_yaml
from hpsearch.errors import InputError

if TYPE_CHECKING:
    import optuna

SamplerName = Literal["random", "tpe", "gp", "qmc"]


REFUSALS = 1_000
"""So many draws in a row beyond the budget end a launch: its space has next to nothing within."""

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(text: str) -> int:
    """``1.5 GB`` as bytes.

    Raises:
        ValueError: the text is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"must be a size such as '8 GB', in one of {', '.join(_UNITS)}")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(text: str) -> str:
    if parse_bytes(text) < 1:
        raise ValueError("must be above 0")
    return text


class Budget(Strict):
    """Limits of a trial; ``None`` for no limit.

    Attributes:
        max_parameters: trainable weights of all its output blocks together.
        max_memory: of the process that trains it, as text such as ``8 GB``.
        max_epoch_seconds: of an epoch, its evaluation included.
    """

    max_parameters: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    max_memory: Annotated[str, AfterValidator(_size)] | None = None
    max_epoch_seconds: Annotated[float, Field(gt=0)] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a limit is on something that has to be measured on the machine."""
        return self.max_memory is not None or self.max_epoch_seconds is not None

    def refusal(self, weights: int, cost: Callable[[], tuple[int, float]]) -> str | None:
        """Why a configuration is beyond the budget, with its figure; ``None`` if it is within.

        Args:
            weights: of its network.
            cost: gives its bytes and the seconds of an epoch; called where they are limited.
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


def _listed(names: object) -> object:
    """A single name means a list of one."""
    return [names] if isinstance(names, str) else names


def _known(name: str) -> str:
    try:
        canonical_targets([name])
    except InputError as error:
        raise ValueError(str(error)) from None
    return name


def _canonical(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return canonical_targets(names)
    except InputError as error:
        raise ValueError(str(error)) from None


_Targets = Annotated[
    tuple[Annotated[str, AfterValidator(_known)], ...],
    Field(strict=False),
    BeforeValidator(_listed),
    AfterValidator(_canonical),
]


class SearchSpace(Strict):
    """What a search may try and everything that it holds fixed; read with :meth:`load`.

    Attributes:
        version: of the file's layout.
        name: of the space; the default name of its study.
        description: free text; the only key that the hash leaves out.
        trials: networks to train to a verdict.
        sampler: ``random``, ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process)
            or ``qmc`` (quasi-Monte Carlo).
        startup_trials: random trials before ``tpe`` or ``gp`` begin to learn; others ignore it.
        seed: of the sampler and, with the trial's number, of every trial's training.
        targets: names of the targets, trained at once.
        network: fixed values of the network, by field.
        training: fixed values of the training, by field.
        data: the molecules.
        budget: what a trial may cost; a draw beyond it is refused.
        parameters: what is searched.
    """

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    description: str = ""
    trials: Annotated[int, Field(ge=1, le=LARGEST)]
    sampler: SamplerName
    startup_trials: Annotated[int, Field(ge=1, le=LARGEST)] = 10
    seed: Annotated[int, Field(ge=0, le=LARGEST)]
    targets: _Targets
    network: dict[str, Any]
    training: dict[str, Any]
    data: DataConfig
    # Left out where it is not set: a space without one keeps the hash that it had.
    budget: Annotated[Budget | None, Field(exclude_if=lambda budget: budget is None)] = None
    parameters: dict[str, Annotated[Parameter, Field(discriminator="type")]]
    _text: str = PrivateAttr("")

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """The space in the file at ``path``; a relative ``split_file`` lies beside it.

        Raises:
            InputError: the file is not a space whose every draw is a valid configuration.
        """
        space = cls._read(read_yaml(path))
        return space.model_copy(update={"data": space.data.beside(Path(path))})

    @classmethod
    def parse(cls, text: str, source: str) -> SearchSpace:
        """The space in ``text``, which :meth:`load` would find in the file called ``source``.

        Raises:
            InputError: as :meth:`load`.
        """
        return cls._read(parse_yaml(text, source))

    @classmethod
    def _read(cls, document: Document) -> SearchSpace:
        if isinstance(kind := document.data.get("format"), str) and "winner" in kind:
            raise document.error(
                ("format",),
                "the file must be a search space, got an exported configuration; "
                "give it to ablate or train",
                key=True,
            )
        space = validate(cls, document)
        check(space.network, space.training, space.parameters, document)
        space._text = document.text
        return space

    @property
    def text(self) -> str:
        """The file as it was read, comments included; an override leaves it alone."""
        return self._text

    @property
    def hash(self) -> str:
        """SHA-256 of the content: comments, the order of keys and the description do not count."""
        return content_hash(self.model_dump(mode="json"))

    def suggest(self, trial: optuna.trial.BaseTrial) -> TrialConfig:
        """The configuration of ``trial``, its parameters drawn by the study's sampler.

        A parameter whose condition does not hold is not drawn, so the study stores only what had
        an effect. The order of the draws does not depend on the order in the file.
        """
        values: dict[str, Any] = {**self.network, **self.training}
        for name in draw_order(self.parameters):
            parameter = self.parameters[name]
            if parameter.holds(values):
                values[name] = parameter.suggest(trial, name)
            elif parameter.otherwise is not None:
                values[name] = parameter.otherwise
        for part in PARTS:
            values |= widths(part, values)
        return TrialConfig(
            targets=self.targets,
            network=NetworkConfig(**_only(values, NetworkConfig)),
            training=TrainingConfig(
                **_only(values, TrainingConfig), seed=self.training_seed(trial.number)
            ),
            data=self.data,
        )

    def training_seed(self, number: int) -> int:
        """Seed of trial ``number``'s weights and batches; the same on every machine."""
        digest = hashlib.sha256(f"{self.seed}:{number}".encode()).digest()
        return int.from_bytes(digest[:4], "big") & LARGEST

    def with_overrides(
        self, *, targets: Sequence[str] | None = None, **options: Any
    ) -> SearchSpace:
        """This space with the values that a command gave instead; ``None`` leaves the file's.

        Args:
            targets: names of the targets.
            options: fields of :class:`~hpsearch.config.run.Overrides`. One that the space searches
                is no longer searched.

        Raises:
            InputError: a value is not allowed; it names the command's option.
        """
        overrides = Overrides(**options)
        top = overrides.given(type(self).model_fields)
        if targets is not None:
            top["targets"] = list(targets)
        data = overrides.given_for(self.data)
        training = overrides.given(TRAINING_FIELDS)
        content = self.model_dump(mode="json") | top
        content["data"] |= data
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
        """JSON-safe record to keep with a study; :meth:`from_provenance` is its inverse."""
        return {"hash": self.hash, "content": self.model_dump(mode="json"), "text": self.text}

    @classmethod
    def from_provenance(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space that :meth:`to_provenance` recorded.

        Raises:
            InputError: the record is damaged, or this version reads it differently.
        """
        content, text = values.get("content"), values.get("text")
        if not isinstance(content, dict) or not isinstance(text, str):
            raise InputError("a stored space must hold content and text; start a new study")
        if content_hash(content) != values.get("hash"):
            raise InputError(
                "a stored space must have the hash stored with it, got another: it was changed in "
                "the store; start a new study"
            )
        return cls._read(Document("the stored space", content, text))


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of a space's content as JSON, its description left out."""
    return fingerprint({key: value for key, value in content.items() if key != "description"})


def _by_option(message: str, places: Mapping[str, str]) -> str:
    """``message`` with the option in place of the field that it begins with."""
    field = re.match(r"[\w.]*", message)[0]  # type: ignore[index]
    if field not in places:
        return message
    return option(places[field]) + re.sub(r"^\[\d+\]", "", message[len(field) :])


def _only(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: values[name] for name in model.model_fields if name in values}
