"""The types of parameter in a search space, and the configuration fields they set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter

from hpsearch.config.declaration import Strict
from hpsearch.config.run import NetworkConfig, TrainingConfig
from hpsearch.config.yaml_file import Position

if TYPE_CHECKING:
    import optuna  # takes half a second, and reading a space does not need it

Scalar = bool | int | float | str
Scalars = tuple[Scalar, ...]

LARGEST = 2**31 - 1
"""The largest integer that a database column and every sampler represent exactly."""


def _scalar(value: object) -> Scalar:
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError("must be true, false, a number or text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _scalar_or_none(value: object) -> Scalar | None:
    return None if value is None else _scalar(value)


def _one_or_more(values: object) -> object:
    """A condition with a single value means a list of one value."""
    return values if isinstance(values, (list, tuple)) else (values,)


# Strict pydantic refuses a list for a tuple, and YAML and JSON have only lists.
_Scalars = Annotated[
    tuple[Annotated[Scalar, PlainValidator(_scalar)], ...],
    Field(strict=False, min_length=1, max_length=1000),
]
_Allowed = Annotated[_Scalars, BeforeValidator(_one_or_more)]
_Bound = Annotated[int, Field(ge=0, le=LARGEST)]
_Scale = Literal["linear", "log"]


class _Conditional(Strict):
    """The fields that every parameter may have.

    Attributes:
        when: the condition: other parameters, and the values for which this one is used.
        otherwise: the value of the field if the condition does not hold.
    """

    when: dict[str, _Allowed] = Field(default_factory=dict)
    otherwise: Annotated[Scalar | None, PlainValidator(_scalar_or_none)] = None

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition holds, given the values drawn so far."""
        return all(values.get(name) in allowed for name, allowed in self.when.items())


class IntParameter(_Conditional):
    """A whole number from ``low`` to ``high``, both included."""

    type: Literal["int"]
    low: _Bound
    high: _Bound
    scale: _Scale = "linear"

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value sampled for the trial."""
        return trial.suggest_int(name, self.low, self.high, log=self.scale == "log")

    def can_be(self, value: Scalar) -> bool:
        """Whether ``value`` may be drawn."""
        return type(value) is int and self.low <= value <= self.high

    @property
    def ends(self) -> dict[Position, Scalar]:
        """The values to check, with their places in the file: if they are valid, all are."""
        return {("low",): self.low, ("high",): self.high}


class FloatParameter(_Conditional):
    """A number from ``low`` to ``high``."""

    type: Literal["float"]
    low: float
    high: float
    scale: _Scale = "linear"

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value sampled for the trial."""
        drawn = trial.suggest_float(name, self.low, self.high, log=self.scale == "log")
        # A sampler's exp(log(high)) may round to just above high.
        return float(min(max(drawn, self.low), self.high))

    def can_be(self, value: Scalar) -> bool:
        """Whether ``value`` may be drawn."""
        return type(value) in (int, float) and self.low <= value <= self.high  # type: ignore[operator]

    @property
    def ends(self) -> dict[Position, Scalar]:
        """The values to check, with their places in the file: if they are valid, all are."""
        return {("low",): self.low, ("high",): self.high}


class CategoricalParameter(_Conditional):
    """One of ``choices``."""

    type: Literal["categorical"]
    choices: _Scalars

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """A value sampled for the trial."""
        return cast(Scalar, trial.suggest_categorical(name, self.choices))

    def can_be(self, value: Scalar) -> bool:
        """Whether ``value`` may be drawn; ``1`` is not ``true``."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    @property
    def ends(self) -> dict[Position, Scalar]:
        """The values to check, with their places in the file: if they are valid, all are."""
        return {("choices", index): choice for index, choice in enumerate(self.choices)}


Parameter = IntParameter | FloatParameter | CategoricalParameter


class Composites(Strict):
    """The number of components and the scalar fraction, from which scalars and vectors follow.

    The paper's search samples these two instead of the numbers of scalars and vectors.

    Attributes:
        featurization_components: components of every featurization block (FC in Table 3).
        featurization_scalar_fraction: the fraction of them that are scalars.
        output_components: components between two output convolutions (OC in Table 3).
        output_scalar_fraction: the fraction of them that are scalars.
    """

    featurization_components: Annotated[int, Field(ge=3)]
    featurization_scalar_fraction: Annotated[float, Field(ge=0, le=1)]
    output_components: Annotated[int, Field(ge=3)]
    output_scalar_fraction: Annotated[float, Field(ge=0, le=1)]


def split_components(components: int, scalar_fraction: float) -> tuple[int, int]:
    """The numbers of scalars, round(p C), and of vectors, round((1 - p) C / 3).

    A vector has three components. Both numbers are 0 only for C ≤ 2, which :class:`Composites`
    refuses.

    >>> split_components(144, 0.4)
    (58, 29)
    """
    vectors = round((1 - scalar_fraction) * components / 3)
    return round(scalar_fraction * components), vectors


PARTS = ("featurization", "output")
"""Parts of the network whose width may be given by components."""

NETWORK_FIELDS = tuple(NetworkConfig.model_fields)
TRAINING_FIELDS = tuple(name for name in TrainingConfig.model_fields if name != "seed")
"""All training fields except the seed, which follows from the space's seed and the trial number."""

COMPOSITE_FIELDS = tuple(Composites.model_fields)

FIELDS = {
    **NetworkConfig.model_fields,
    **{name: TrainingConfig.model_fields[name] for name in TRAINING_FIELDS},
    **Composites.model_fields,
}
"""All fields that can be searched."""


@cache
def adapter(name: str) -> TypeAdapter[Any]:
    """The validator of the configuration field ``name``."""
    info = FIELDS[name]
    kind: Any = info.annotation
    for constraint in info.metadata:
        kind = Annotated[kind, constraint]
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def widths(part: str, values: Mapping[str, Any]) -> dict[str, int]:
    """Scalars and vectors of ``part``, if ``values`` gives components and a scalar fraction."""
    if f"{part}_scalars" in values:
        return {}
    components = values.get(f"{part}_components")
    if components is None:  # a single output convolution has no features between two of them
        return {f"{part}_scalars": 0, f"{part}_vectors": 0}
    scalars, vectors = split_components(components, values[f"{part}_scalar_fraction"])
    return {f"{part}_scalars": scalars, f"{part}_vectors": vectors}


def draw_order(parameters: Mapping[str, Parameter]) -> list[str]:
    """Names in the order of the configuration's fields, but after the parameters they depend on.

    Parameters whose conditions form a circle are left out.
    """
    order: list[str] = []
    pending = [name for name in FIELDS if name in parameters]
    while ready := [n for n in pending if all(other in order for other in parameters[n].when)]:
        order.append(ready[0])
        pending.remove(ready[0])
    return order
