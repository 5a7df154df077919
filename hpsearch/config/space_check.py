"""Checks that a search space cannot give an invalid configuration; errors name the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn, cast

from hpsearch.config.parameters import (
    COMPOSITE_FIELDS,
    FIELDS,
    NETWORK_FIELDS,
    PARTS,
    TRAINING_FIELDS,
    CategoricalParameter,
    FloatParameter,
    Parameter,
    Scalar,
    adapter,
    draw_order,
)
from hpsearch.config.run import ScheduleName
from hpsearch.config.rungs import Rungs, least_epoch
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import Document, Position
from hpsearch.system.errors import nearest, one_line

_ALLOWED = {
    "network": (*NETWORK_FIELDS, *COMPOSITE_FIELDS),
    "training": TRAINING_FIELDS,
    "parameters": tuple(FIELDS),
}


def check(
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    document: Document,
) -> None:
    """Check that every sample gives a valid configuration.

    Args:
        network: fixed values of the network, by field.
        training: fixed values of the training, by field.
        parameters: the searched parameters.
        document: the file they come from.

    Raises:
        InputError: the first error, in one line.
    """
    names = _NameCheck(
        {"network": network, "training": training, "parameters": parameters}, document
    )
    names.known()
    names.once()
    names.complete()
    for name in network:
        validate(adapter(name), document, ("network", name))
    for name in training:
        validate(adapter(name), document, ("training", name))
    for name in parameters:
        _RangeCheck(name, parameters, document).run()
    fixed = {**network, **training}
    for name in parameters:
        _ConditionCheck(name, parameters, fixed, document).run()
    ordered = draw_order(parameters)
    for name in parameters:
        if name not in ordered:
            raise document.error(
                ("parameters", name, "when"),
                f"parameters.{name}.when must not form a circle with other conditions, got one; "
                "delete one of them",
                key=True,
            )
    _WidthCheck(fixed, parameters, document).run()


def schedules(
    training: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> tuple[ScheduleName, ...]:
    """The schedules that a trial of a space may have."""
    searched = parameters.get("schedule")
    names = searched.choices if isinstance(searched, CategoricalParameter) else None
    return cast(tuple[ScheduleName, ...], names or (training["schedule"],))


def check_rungs(
    rungs: Rungs,
    training: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    document: Document,
) -> None:
    """Check that the losses of all trials at a rung can be compared.

    Args:
        rungs: of the space.
        training: fixed values of the training, by field.
        parameters: the searched parameters.
        document: the file they come from.

    Raises:
        InputError: the first error, in one line.
    """
    if "epochs" in parameters:
        raise document.error(
            ("parameters", "epochs"),
            "epochs must be fixed in a space with rungs, because all trials at a rung must be on "
            "the way to the same number of epochs, got a range; move it to training",
            key=True,
        )
    epochs, names = training["epochs"], schedules(training, parameters)
    if rungs.default:
        return  # they fit any number of epochs; a very small one has none
    if rungs.epochs is None:
        if rungs.count >= epochs:
            raise document.error(
                ("rungs", "seconds"),
                f"rungs.seconds must have fewer entries than a trial has epochs ({epochs}), got "
                f"{rungs.count}; delete some",
                key=True,
            )
        return
    if rungs.epochs[-1] >= epochs:
        raise document.error(
            ("rungs", "epochs"),
            f"rungs.epochs must all be below the {epochs} epochs of a trial, got "
            f"{rungs.epochs[-1]}; delete it, or train longer",
            key=True,
        )
    least = least_epoch(epochs, names)
    if rungs.epochs[0] < least:
        raise document.error(
            ("rungs", "epochs"),
            f"rungs.epochs must begin at epoch {least} or later with the schedule cosine, because "
            f"earlier losses favour small learning rates, got {rungs.epochs[0]}; change it to "
            f"{least}, or use another schedule",
            key=True,
        )


class _NameCheck:
    """Checks that every field of the network and the training is given exactly once."""

    def __init__(self, sections: Mapping[str, Mapping[str, Any]], document: Document) -> None:
        self._sections = sections
        self._document = document

    def _refuse(self, position: Position, message: str) -> NoReturn:
        raise self._document.error(position, message, key=True)

    def known(self) -> None:
        for section, values in self._sections.items():
            for name in values:
                if name not in _ALLOWED[section]:
                    self._refuse(
                        (section, name),
                        f"{section}.{one_line(name)} must be a field of {section}, got "
                        f"'{one_line(name)}'; {self._fix(section, name)}",
                    )

    @staticmethod
    def _fix(section: str, name: str) -> str:
        if name == "seed":
            return "delete it: every trial's seed follows from the seed at the top"
        homes = [home for home in ("network", "training") if name in _ALLOWED[home]]
        return f"move it to {homes[0]}" if homes else nearest(name, _ALLOWED[section])

    def once(self) -> None:
        for name in self._sections["parameters"]:
            for section in ("network", "training"):
                if name in self._sections[section]:
                    self._refuse(
                        ("parameters", name),
                        f"{name} must be given once, got it under {section} and under "
                        "parameters; delete one",
                    )

    def complete(self) -> None:
        given = {name for values in self._sections.values() for name in values}
        for part in PARTS:
            given |= self._given_by_components(part, given)
        for section, names in (("network", NETWORK_FIELDS), ("training", TRAINING_FIELDS)):
            for name in names:
                if name not in given:
                    self._refuse(
                        (section, name),
                        f"{name} must be given, got nothing; add it under {section} to fix it or "
                        "under parameters to search it",
                    )

    def _given_by_components(self, part: str, given: set[str]) -> set[str]:
        composites = (f"{part}_components", f"{part}_scalar_fraction")
        counts = (f"{part}_scalars", f"{part}_vectors")
        found = [name for name in composites if name in given]
        if not found:
            return set()
        for name in counts:
            if name in given:
                self._refuse(
                    self._place(name),
                    f"{name} must not be given together with {found[0]}, which replaces it, got "
                    "both; delete one",
                )
        for name in composites:
            if name not in given:
                self._refuse(
                    self._place(found[0]),
                    f"{found[0]} must be given together with {name}, got it alone; add {name}",
                )
        return set(counts)

    def _place(self, name: str) -> Position:
        return next((section, name) for section, names in self._sections.items() if name in names)


class _RangeCheck:
    """Checks that the configuration accepts both ends of a range, and so every value in it."""

    def __init__(self, name: str, parameters: Mapping[str, Parameter], document: Document) -> None:
        self._name = name
        self._parameter = parameters[name]
        self._document = document

    def _refuse(self, place: Position, message: str) -> NoReturn:
        raise self._document.error(
            ("parameters", self._name, *place), f"parameters.{self._name}.{message}"
        )

    def run(self) -> None:
        self._type()
        for place in self._parameter.ends:
            validate(adapter(self._name), self._document, ("parameters", self._name, *place))
        if isinstance(self._parameter, CategoricalParameter):
            self._distinct(self._parameter.choices)
        else:
            self._interval(self._parameter.low, self._parameter.high, self._parameter.scale)

    def _type(self) -> None:
        kind = FIELDS[self._name].annotation
        types = ["categorical"]
        if kind in (int, float):
            types.append("int")
        if kind is float:
            types.append("float")
        if self._parameter.type not in types:
            self._refuse(
                ("type",), f"type must be {' or '.join(types)}, got {self._parameter.type}"
            )

    def _distinct(self, choices: tuple[Scalar, ...]) -> None:
        for index, choice in enumerate(choices):
            if choice in choices[:index]:
                self._refuse(
                    ("choices", index),
                    f"choices must differ, got {one_line(str(choice))} twice; delete one",
                )

    def _interval(self, low: float, high: float, scale: str) -> None:
        if low > high:
            self._refuse(
                ("high",), f"high must be at least low, got low {low} and high {high}; swap them"
            )
        if scale == "log" and low <= 0:
            self._refuse(
                ("low",),
                f"low must be above 0 on a log scale, got {low}; raise it or use scale: linear",
            )


class _ConditionCheck:
    """Checks that a condition can be evaluated and that a field has a value if it is false."""

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Parameter],
        fixed: Mapping[str, Any],
        document: Document,
    ) -> None:
        self._name = name
        self._parameters = parameters
        self._fixed = fixed
        self._document = document

    def _refuse(self, place: Position, message: str) -> NoReturn:
        position = ("parameters", self._name, *place)
        raise self._document.error(position, f"parameters.{self._name}{message}", key=True)

    def run(self) -> None:
        parameter = self._parameters[self._name]
        for other, allowed in parameter.when.items():
            self._condition(other, allowed)
        # A composite is not a configuration field: without it there are no such features.
        direct = self._name not in COMPOSITE_FIELDS
        if parameter.otherwise is not None:
            if not parameter.when or not direct:
                must = (
                    "must be given together with when, got it alone"
                    if direct
                    else "must not be given for components and scalar fractions, got it"
                )
                self._refuse(("otherwise",), f".otherwise {must}; delete it")
            place = ("parameters", self._name, "otherwise")
            validate(adapter(self._name), self._document, place)
        elif parameter.when and direct:
            self._refuse(
                (), " must have a value if its condition does not hold, got none; add otherwise"
            )

    def _condition(self, other: str, allowed: tuple[Scalar, ...]) -> None:
        known = [name for name in self._parameters if name != self._name]
        place = ("when", other)
        if other not in known:
            fixed = other in self._fixed
            fix = "it is fixed: delete the condition" if fixed else nearest(other, known)
            self._refuse(
                place, f".when must name another parameter, got '{one_line(other)}'; {fix}"
            )
        parent = self._parameters[other]
        if isinstance(parent, FloatParameter):
            self._refuse(
                place,
                f".when must name an int or categorical parameter, got {other}, a float; "
                "make it categorical",
            )
        for value in allowed:
            if not parent.can_be(value) and not _same(value, parent.otherwise):
                self._refuse(
                    place,
                    f".when.{other} must be a value that {other} can take, got "
                    f"{one_line(str(value))}; correct it",
                )


class _WidthCheck:
    """Checks the numbers of scalars and vectors.

    Every convolution needs input features. A single output convolution has no features after it.
    """

    def __init__(
        self, fixed: Mapping[str, Any], parameters: Mapping[str, Parameter], document: Document
    ) -> None:
        self._fixed = fixed
        self._parameters = parameters
        self._document = document

    def _refuse(self, name: str, message: str) -> NoReturn:
        section = "parameters" if name in self._parameters else "network"
        raise self._document.error((section, name), f"{name} {message}", key=True)

    def run(self) -> None:
        self._featurization()
        counts = _OutputBlocks(self._fixed, self._parameters)
        if counts.may_be(1):
            self._check_single_output(counts)
        if counts.may_be_several:
            self._check_several_outputs(counts)

    def _featurization(self) -> None:
        for name in ("featurization_components", "featurization_scalar_fraction"):
            if name in self._parameters and self._parameters[name].when:
                self._refuse(name, "must have no when, since every network needs it; delete when")
        if self._has("featurization_scalars"):
            self._not_both_zero("featurization", None)

    def _check_single_output(self, counts: _OutputBlocks) -> None:
        fault = (
            "must have when: {output_blocks: 2}, since a single output convolution does not use "
            "it; add otherwise: 0 too, except to a component/fraction pair"
            if counts.may_be_several
            else "must not be used with a single output convolution; write output_scalars: 0 and "
            "output_vectors: 0 instead"
        )
        for name in _OUTPUT_WIDTHS:
            if self._has(name) and self._is_used_with_one_block(name):
                self._refuse(name, fault)

    def _is_used_with_one_block(self, name: str) -> bool:
        parameter = self._parameters.get(name)
        if parameter is None:
            return name in COMPOSITE_FIELDS or self._fixed[name] != 0
        never = 1 not in parameter.when.get("output_blocks", (1,))
        return not never or parameter.otherwise not in (None, 0)

    def _check_several_outputs(self, counts: _OutputBlocks) -> None:
        for name in ("output_components", "output_scalar_fraction"):
            parameter = self._parameters.get(name)
            if parameter is not None and not _always_holds(parameter, counts):
                self._refuse(
                    name,
                    "must be used with every output_blocks above 1, got a narrower when; write a "
                    "when of output_blocks alone, with all values above 1",
                )
        if self._has("output_scalars"):
            self._not_both_zero("output", counts)

    def _not_both_zero(self, part: str, counts: _OutputBlocks | None) -> None:
        names = (f"{part}_scalars", f"{part}_vectors")
        if sum(self._least(name, counts) for name in names) == 0:
            self._refuse(
                names[0],
                f"and {names[1]} must not both be 0, got 0 as the lowest value of both; raise one",
            )

    def _least(self, name: str, counts: _OutputBlocks | None) -> int:
        """The lowest value of the field; with ``counts``, for several output blocks."""
        parameter = self._parameters.get(name)
        if parameter is None:
            return int(self._fixed[name])
        least = min(int(value) for value in parameter.ends.values())
        if parameter.otherwise is None or (counts and _always_holds(parameter, counts)):
            return least
        return min(least, int(parameter.otherwise))

    def _has(self, name: str) -> bool:
        return name in self._fixed or name in self._parameters


_OUTPUT_WIDTHS = (
    "output_components",
    "output_scalar_fraction",
    "output_scalars",
    "output_vectors",
)


class _OutputBlocks:
    """The numbers of output convolutions that can be sampled."""

    def __init__(self, fixed: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
        parameter = parameters.get("output_blocks")
        # Ranges are not expanded, because they may be extremely long.
        self._counts: list[Sequence[Any]] = []
        if parameter is None:
            self._counts = [(fixed["output_blocks"],)]
            return
        if isinstance(parameter, CategoricalParameter):
            self._counts.append(parameter.choices)
        else:
            self._counts.append(range(int(parameter.low), int(parameter.high) + 1))
        if parameter.otherwise is not None:
            self._counts.append((parameter.otherwise,))

    def may_be(self, count: int) -> bool:
        return any(count in counts for counts in self._counts)

    @property
    def may_be_several(self) -> bool:
        return next(self.several(), None) is not None

    def several(self) -> Iterator[int]:
        return (count for count in chain.from_iterable(self._counts) if count > 1)


def _always_holds(parameter: Parameter, counts: _OutputBlocks) -> bool:
    """Whether the parameter is always used with several output blocks."""
    if not parameter.when:
        return True
    allowed = set(parameter.when.get("output_blocks", ()))
    # all() stops at the first number that is not allowed, so a long range costs nothing.
    return set(parameter.when) == {"output_blocks"} and all(n in allowed for n in counts.several())


def _same(value: Scalar, other: Scalar | None) -> bool:
    return type(value) is type(other) and value == other
