"""Known configurations as the first trials of a study: what a space names, and its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_serializer, model_validator

from hpsearch.config.declaration import Strict
from hpsearch.config.parameters import (
    PARTS,
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Scalar,
    split_components,
    widths,
)
from hpsearch.config.run import (
    Count,
    NetworkConfig,
    PositiveCount,
    TrainingConfig,
    TrialConfig,
)
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import read_yaml, yaml_number

if TYPE_CHECKING:
    from hpsearch.config.space import SearchSpace

MOST_REPEATS = 100

_Name = Annotated[str, Field(min_length=1)]


class Start(Strict):
    """Configurations from one source, or the text of a ``configuration`` alone.

    Attributes:
        configuration: an exported configuration: a file, or the name of a shipped one.
        study: the name of another study in the same store.
        best: number of its best trials.
        trials: numbers of its trials, instead of ``best``.
        repeats: number of trials for each configuration. Their training differs in the seed.
    """

    configuration: _Name | None = None
    study: _Name | None = None
    best: PositiveCount | None = None
    trials: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = None
    repeats: Annotated[PositiveCount, Field(le=MOST_REPEATS)] = 1

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"configuration": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Start:
        if (self.configuration is None) == (self.study is None):
            found = "none" if self.study is None else "both"
            raise ValueError(f"must have either configuration or study, got {found}")
        chosen = [name for name in ("best", "trials") if getattr(self, name) is not None]
        if self.study is None and chosen:
            raise ValueError(f"must have {chosen[0]} only beside study, got it without")
        if self.study is not None and len(chosen) != 1:
            found = "both" if chosen else "none"
            raise ValueError(f"must have either best or trials beside study, got {found}")
        return self

    @model_serializer(mode="plain")
    def _given(self) -> str | dict[str, Any]:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        known = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value is not None and (name, value) != ("repeats", 1)
        }
        return self.configuration if list(known) == ["configuration"] else known  # type: ignore[return-value]

    def in_folder(self, folder: Path) -> Start:
        """The same with an absolute path, if ``folder`` contains the named file."""
        if self.configuration is None:
            return self
        path = (folder / self.configuration).resolve()
        return self.model_copy(update={"configuration": str(path)}) if path.is_file() else self


class StartList(Strict):
    """A file with nothing but ``start_with``, for a launch's ``--enqueue``."""

    start_with: Annotated[tuple[Start, ...], Field(strict=False, min_length=1)]


def find_starts(folder: Path, starts: Sequence[Start]) -> tuple[Start, ...]:
    """The entries with absolute paths for files in ``folder``."""
    return tuple(start.in_folder(folder) for start in starts)


def read_starts(text: str) -> tuple[Start, ...]:
    """The entries of the file ``text``: those of its ``start_with``, else the file itself.

    Raises:
        InputError: the file cannot be read, or an entry is not valid.
    """
    path = Path(text)
    document = read_yaml(path) if path.is_file() else None
    if document is None or list(document.data) != ["start_with"]:
        return (Start(configuration=text),)
    return find_starts(path.parent, validate(StartList, document).start_with)


def parameters_of(space: SearchSpace, config: TrialConfig) -> dict[str, Scalar]:
    """The searched parameters with which ``space`` gives the network and training of ``config``.

    Fixed values of the training, the targets and the molecules are those of the space.

    Raises:
        ValueError: a field of the configuration is outside the space; it names field and range.
    """
    wanted: dict[str, Any] = {**config.network.model_dump(), **config.training.model_dump()}
    values: dict[str, Any] = {**space.network, **space.training}
    found: dict[str, Scalar] = {}
    for name in space.draw_order:
        parameter = space.parameters[name]
        if not parameter.holds(values):
            if parameter.otherwise is not None:
                values[name] = parameter.otherwise
            continue
        if (part := _composite_part(name)) is not None:
            wanted |= _composites(part, wanted, values, space.parameters)
        values[name] = found[name] = _in_range(name, wanted[name], parameter)
    for part in PARTS:
        values |= widths(part, values)
    for name in NetworkConfig.model_fields:
        given = values.get(name, NetworkConfig.model_fields[name].default)
        if given != wanted[name]:
            raise ValueError(
                f"{name} must be {_shown(given)}, as the space fixes it, got {_shown(wanted[name])}"
            )
    return found


def other_terms(space: SearchSpace, config: TrialConfig) -> Iterator[str]:
    """Yield what a trial of ``space`` does otherwise than ``config``: ``epochs 10 instead of 200``.

    These values are fixed in the space, so they hold for every trial.
    """
    for name in TrainingConfig.model_fields:
        if name == "seed" or name in space.parameters:
            continue
        given = space.training.get(name, TrainingConfig.model_fields[name].default)
        before = getattr(config.training, name)
        if given != before:
            yield f"{name} {_shown(given)} instead of {_shown(before)}"
    if space.targets != config.targets:
        yield f"{len(space.targets)} targets instead of {len(config.targets)}"


def _composite_part(name: str) -> str | None:
    return next((part for part in PARTS if name in _composite_names(part)), None)


def _composite_names(part: str) -> tuple[str, str]:
    return f"{part}_components", f"{part}_scalar_fraction"


def _composites(
    part: str,
    wanted: Mapping[str, Any],
    values: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
) -> dict[str, Any]:
    """The components and the scalar fraction in the space that give the wanted widths.

    Several may. The one whose components are closest to s + 3v is returned.
    """
    names = _composite_names(part)
    if all(name in wanted for name in names):
        return {}
    widths_wanted = (wanted[f"{part}_scalars"], wanted[f"{part}_vectors"])
    exact = widths_wanted[0] + 3 * widths_wanted[1]
    given, fraction_of = (parameters.get(name, values.get(name)) for name in names)
    # Rounding moves s by at most a half and 3v by at most one and a half.
    for components in sorted(range(max(exact - 2, 1), exact + 3), key=lambda c: abs(c - exact)):
        if not (given.can_be(components) if isinstance(given, Parameter) else given == components):
            continue
        for fraction in _fractions(fraction_of, components, *widths_wanted):
            if split_components(components, fraction) == widths_wanted:
                return {names[0]: components, names[1]: fraction}
    return {names[0]: exact, names[1]: widths_wanted[0] / max(exact, 1)}


def _fractions(
    allowed: Parameter | Any, components: int, scalars: int, vectors: int
) -> tuple[float, ...]:
    """Allowed scalar fractions, some of which give the widths if any does."""
    if isinstance(allowed, CategoricalParameter):
        return tuple(float(choice) for choice in allowed.choices)
    if not isinstance(allowed, IntParameter | FloatParameter):
        return (float(allowed),)
    # The places of round(p C) = s and of round((1 - p) C / 3) = v, as p C.
    first = max(scalars - 0.5, components - 3 * vectors - 1.5, allowed.low * components)
    last = min(scalars + 0.5, components - 3 * vectors + 1.5, allowed.high * components)
    places = (min(max(scalars, first), last), (first + last) / 2)
    return tuple(min(max(place / components, allowed.low), allowed.high) for place in places)


def _in_range(name: str, value: Any, parameter: Parameter) -> Scalar:
    if parameter.can_be(value):
        return value  # type: ignore[no-any-return]
    if isinstance(parameter, CategoricalParameter):
        allowed = f"one of {', '.join(map(_shown, parameter.choices))}"
    else:
        allowed = f"from {_shown(parameter.low)} to {_shown(parameter.high)}"
    raise ValueError(f"{name} must be {allowed}, got {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return yaml_number(value) if isinstance(value, float) else str(value)
